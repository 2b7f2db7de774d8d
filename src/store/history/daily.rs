//! Counts a day: events, different people, visits.
//!
//! Guarantees: every event is counted once, in a transaction that also says how
//! far the log has been counted, whichever node does it and however often; and
//! before it is deleted. Of people only a digest is kept, until their day is over.

use super::read::Asked;
use super::statements::{OWN, is_owned, with_facts};
use super::{Freshness, History, Read, ReadError};
use crate::clock::Day;
use crate::db::{Row, Sql};
use crate::ids::RoomId;
use crate::placement::ShardIndex;
use crate::position::Seq;
use crate::store::guard::WriteError;

/// Events in one transaction.
const BATCH_EVENTS: i64 = 5_000;

// For an hour after midnight events of the day before may still come: from a
// transaction under way, or a gateway whose clock is late.
macro_rules! open_day {
    () => {
        "((now() - interval '1 hour') AT TIME ZONE 'UTC')::date"
    };
}

/// The $2 rooms after $1, and whether there is something to do: events that are
/// not counted, or a day to close, in a room that the shard owns.
pub(super) static UNCOUNTED: Sql = Sql {
    name: "read_uncounted",
    text: concat!(
        "SELECT head.room_id,
                (head.head_seq > coalesce(counted.seq, 0)
                 OR coalesce(counted.users_since < ",
        open_day!(),
        ", false))
            AND ",
        is_owned!("head.room_id"),
        "
           FROM (SELECT room_id, head_seq FROM room_head WHERE room_id > $1 ORDER BY room_id LIMIT $2) AS head
           LEFT JOIN LATERAL (
                SELECT seq, users_since FROM room_counted
                 WHERE room_counted.room_id = head.room_id LIMIT 1) AS counted ON true
          ORDER BY head.room_id"
    ),
};

/// One at a time counts a room; answers how far it is counted.
pub(super) static BEGIN: Sql = Sql {
    name: "count_begin",
    text: "INSERT INTO room_counted (room_id) SELECT room_id FROM room_head WHERE room_id = $1
               ON CONFLICT (room_id) DO UPDATE SET seq = room_counted.seq
           RETURNING seq",
};

/// The events after $2, at most $3. What was deleted before it could be counted
/// is passed over.
pub(super) static COUNT: Sql = Sql {
    name: "count_events",
    text: "WITH until AS (
                SELECT head_seq, least(head_seq, $2::bigint + $3::bigint) AS seq FROM room_head WHERE room_id = $1),
              fresh AS MATERIALIZED (
                SELECT (room_event.created_at AT TIME ZONE 'UTC')::date AS day, room_event.user_id
                  FROM until JOIN room_event
                    ON room_event.room_id = $1 AND room_event.seq > $2 AND room_event.seq <= until.seq),
              people AS (
                INSERT INTO room_daily_user (room_id, day, digest)
                SELECT DISTINCT $1::bigint, day, hashtextextended(user_id, $1::bigint) FROM fresh
                    ON CONFLICT DO NOTHING
                RETURNING day),
              days AS (
                INSERT INTO room_daily (room_id, day, events, users)
                SELECT $1::bigint, day, count(*), (SELECT count(*) FROM people WHERE people.day = fresh.day)
                  FROM fresh GROUP BY day
                    ON CONFLICT (room_id, day) DO UPDATE
                   SET events = room_daily.events + excluded.events, users = room_daily.users + excluded.users),
              counted AS (
                UPDATE room_counted
                   SET seq = greatest(room_counted.seq, until.seq),
                       users_since = least(users_since, (SELECT min(day) FROM fresh))
                  FROM until WHERE room_id = $1)
           SELECT seq, head_seq FROM until",
};

/// Of a room that is counted to its head.
pub(super) static CLOSE: Sql = Sql {
    name: "count_close",
    text: concat!(
        "WITH closed AS (
             DELETE FROM room_daily_user WHERE room_id = $1 AND day < ",
        open_day!(),
        ")
         UPDATE room_counted
            SET users_since = (SELECT min(day) FROM room_daily_user WHERE room_id = $1 AND day >= ",
        open_day!(),
        ")
          WHERE room_id = $1 AND users_since < ",
        open_day!()
    ),
};

/// The days from $5 to $6, at most $7.
pub(super) static DAILY: Sql = Sql {
    name: "read_daily",
    text: with_facts!(
        ", counted.seq, to_char(daily.day, 'YYYY-MM-DD'), daily.events, daily.users, daily.visits",
        "
  LEFT JOIN LATERAL (SELECT seq FROM room_counted WHERE room_id = $1 LIMIT 1) AS counted ON true
  LEFT JOIN LATERAL (
       SELECT day, sum(events)::bigint AS events, sum(users)::bigint AS users, sum(visits)::bigint AS visits
         FROM ((SELECT day, events, users, 0 AS visits FROM room_daily
                 WHERE room_id = $1 AND day >= $5::text::date AND day <= $6::text::date ORDER BY day LIMIT $7)
                UNION ALL
               (SELECT day, 0, 0, visits FROM room_daily_visits
                 WHERE room_id = $1 AND day >= $5::text::date AND day <= $6::text::date ORDER BY day LIMIT $7)) AS each
        GROUP BY day ORDER BY day LIMIT $7) AS daily ON true"
    ),
};

/// How far a room is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub seq: Seq,
    pub head: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayCounts {
    pub day: Day,
    pub events: u64,
    pub users: u64,
    pub visits: u64,
}

/// Days on which there was something, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daily {
    /// Events up to this one are counted.
    pub counted: Seq,
    pub days: Vec<DayCounts>,
    pub more: bool,
}

impl History {
    /// Of the next `limit` rooms of a shard, those with something to count; and
    /// the last room that was looked at.
    pub async fn uncounted(
        &self,
        shard: ShardIndex,
        after: i64,
        limit: i64,
        freshness: Freshness,
    ) -> Result<(Vec<RoomId>, Option<i64>), ReadError> {
        let rows = self.reader.query(shard, freshness, &UNCOUNTED, &[&after, &limit]).await?;
        let due = rows.iter().filter(|row| row.get::<_, Option<bool>>(1) == Some(true));
        let rooms = due.filter_map(|row| RoomId::from_i64(row.get(0)).ok()).collect();
        Ok((rooms, rows.last().map(|row| row.get(0))))
    }

    /// Counts the next events; `None` if there is no such room.
    pub async fn count(&self, room: RoomId) -> Result<Option<Counted>, WriteError> {
        let guard = self.guard(room).await?;
        let id = room.as_i64();
        let Some(begun) = guard.query_opt(&BEGIN, &[&id]).await? else {
            guard.rollback().await;
            return Ok(None);
        };
        let row = guard.query_one(&COUNT, &[&id, &begun.get::<_, i64>(0), &BATCH_EVENTS]).await?;
        let counted = Counted { seq: Seq::from_i64(row.get(0)), head: Seq::from_i64(row.get(1)) };
        if counted.seq == counted.head {
            guard.execute(&CLOSE, &[&id]).await?;
        }
        guard.commit().await?;
        Ok(Some(counted))
    }

    /// The counts of the days from `from` to `to`, at most `limit` of them.
    pub async fn daily(
        &self,
        room: RoomId,
        (from, to): (Day, Day),
        limit: usize,
        freshness: Freshness,
    ) -> Result<Read<Daily>, ReadError> {
        let asked = Asked::new(room, freshness);
        let (from, to) = (from.to_string(), to.to_string());
        // One more than asked for tells whether there is another page.
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let (read, (counted, mut days)) = self
            .reader
            .read(&asked, &DAILY, &[&from, &to, &most], |(counted, days): &mut (Seq, Vec<_>), row| {
                *counted = row.get::<_, Option<i64>>(OWN).map_or(Seq::ZERO, Seq::from_i64);
                days.extend(day_counts(row));
            })
            .await?;
        days.sort_unstable_by_key(|counts: &DayCounts| counts.day);
        let more = days.len() > limit;
        days.truncate(limit);
        Ok(read.map(|_, _, _| Daily { counted, days, more }))
    }
}

fn day_counts(row: &Row) -> Option<DayCounts> {
    let day = row.get::<_, Option<&str>>(OWN + 1)?.parse().ok()?;
    let count = |at: usize| row.get::<_, i64>(OWN + at).unsigned_abs();
    Some(DayCounts { day, events: count(2), users: count(3), visits: count(4) })
}
