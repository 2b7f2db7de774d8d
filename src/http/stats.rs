//! A room's days: events, different people, visits.
//!
//! Days are UTC's, those without anything are left out. Visits are a second old
//! at most; events and people as old as `jobs.stats_interval_ms` and half of it
//! more, and what the job takes: `counted` says up to which seq they go.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Answer, ApiError};
use super::freshness::{Fresh, FreshParams, tell};
use super::openapi::schemas;
use super::paging::{foreign_cursor, limit, next_cursor};
use super::path::{RoomParam, RoomPath};
use super::query::Query;
use super::signed_in::SignedIn;
use super::{App, answer};
use crate::clock::{Day, UnixMillis};
use crate::protocol::ObjectWriter;

const DAYS_DEFAULT: i64 = 30;
const DAYS_MAX: i64 = 3_660;
const LIMIT_DEFAULT: usize = 366;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wish {
    /// The first day, `2026-11-21`.
    from: Option<String>,
    /// The last day; today if it isn't given.
    to: Option<String>,
    /// Instead of `from`: so many days up to the last one; 30 if neither is given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3660)]
    days: Option<String>,
    /// At most so many days.
    #[param(value_type = Option<u32>, minimum = 1)]
    limit: Option<String>,
    cursor: Option<String>,
}

#[utoipa::path(
    get, path = "/v1/rooms/{room}/stats", tag = "rooms",
    summary = "Events, different people and visits of each day (UTC)",
    params(RoomParam, Wish, FreshParams),
    responses((status = 200, description = "Days with something, in order", body = schemas::Stats)),
)]
pub(super) async fn list(
    State(app): State<App>,
    SignedIn(claims): SignedIn,
    RoomPath(room): RoomPath,
    Query(wish): Query<Wish>,
    Fresh(freshness): Fresh,
) -> Answer<Response> {
    let span = span(&wish, Day::of(UnixMillis::now()))?;
    let limit = limit(wish.limit.as_deref(), LIMIT_DEFAULT)?;
    let room = app.access.readable(&claims, &room).await?;
    let read = app.history.daily(room, span, limit, freshness).await?;
    let days = read.value.days.iter().map(|counts| {
        ObjectWriter::object(96)
            .string("day", &counts.day.to_string())
            .number("events", counts.events)
            .number("users", counts.users)
            .number("visits", counts.visits)
            .end()
    });
    let list = ObjectWriter::object(1024)
        .number("epoch", read.head.epoch.0)
        .number("head", read.head.seq.0)
        .number("counted", read.value.counted.0)
        .array("items", days);
    let next = read.value.days.last().filter(|_| read.value.more).map(|counts| counts.day.to_string());
    let response = answer::json(StatusCode::OK, next_cursor(list, next));
    Ok(tell(response, Some(read.head), &read.served_by, read.fallback))
}

/// The first and the last day. The cursor is the last day that was told.
fn span(wish: &Wish, today: Day) -> Answer<(Day, Day)> {
    let bad = ApiError::bad_message;
    let day = |text: &Option<String>, refusal| {
        text.as_deref().map(|text| text.parse::<Day>().map_err(|_| refusal)).transpose()
    };
    let to = day(&wish.to, bad("to is a day, like 2026-11-21"))?.unwrap_or(today);
    let from = day(&wish.from, bad("from is a day, like 2026-11-21"))?;
    let from = match (from, wish.days.as_deref().map(str::parse::<i64>)) {
        (Some(_), Some(_)) => return Err(bad("give from or days, not both")),
        (Some(from), None) => from,
        (None, None) => to.before(DAYS_DEFAULT - 1),
        (None, Some(Ok(days @ 1..=DAYS_MAX))) => to.before(days - 1),
        (None, Some(_)) => return Err(bad("days is an integer from 1 to 3660")),
    };
    let told = day(&wish.cursor, foreign_cursor())?;
    Ok((told.map_or(from, |told| from.max(told.before(-1))), to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(from: &str, to: &str, days: &str, cursor: &str) -> Option<(String, String)> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let wish =
            Wish { from: given(from), to: given(to), days: given(days), limit: None, cursor: given(cursor) };
        let today = "2026-03-01".parse().unwrap();
        span(&wish, today).ok().map(|(from, to)| (from.to_string(), to.to_string()))
    }

    #[test]
    fn days_are_from_one_to_another_or_so_many() {
        let is = |from: &str, to: &str| Some((from.to_owned(), to.to_owned()));
        assert_eq!(asked("", "", "", ""), is("2026-01-31", "2026-03-01"));
        assert_eq!(asked("", "", "1", ""), is("2026-03-01", "2026-03-01"));
        assert_eq!(asked("", "2024-03-01", "2", ""), is("2024-02-29", "2024-03-01"));
        assert_eq!(asked("2020-01-01", "2020-12-31", "", ""), is("2020-01-01", "2020-12-31"));
        assert_eq!(asked("2020-01-01", "2020-12-31", "", "2020-02-28"), is("2020-02-29", "2020-12-31"));
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for text in [
            "x",
            "2026-13-01",
            "2026-02-29",
            "2026-2-1",
            "26-02-01",
            "0000-12-31",
            "2026-02-01T",
            "-001-01-01",
        ] {
            assert_eq!(asked(text, "", "", ""), None, "from {text}");
            assert_eq!(asked("", text, "", ""), None, "to {text}");
            assert_eq!(asked("", "", "", text), None, "cursor {text}");
        }
        for days in ["0", "-1", "x", "3661", "99999999999999999999"] {
            assert_eq!(asked("", "", days, ""), None, "{days}");
        }
        assert_eq!(asked("2026-01-01", "", "3", ""), None);
    }
}
