//! What a run showed, for people and for files.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::check::Delays;
use crate::history::{Answer, Micros, Played};
use crate::run::{Outcome, is_felt};

/// Rules by the sentence that people ask about.
const LOST: [&str; 4] =
    ["acked_is_logged", "everybody_gets_everything", "events_have_no_hole", "pages_follow_the_position"];
const DOUBLED: [&str; 2] = ["one_entry_per_op", "events_come_once"];
const REORDERED: [&str; 2] = ["submits_of_a_session_keep_their_order", "log_has_no_hole"];

impl Outcome {
    /// Nothing broke, and every fault was felt.
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.void().is_empty()
    }

    fn void(&self) -> Vec<&Played> {
        let is_void = |played: &&Played| !is_felt(&played.felt, played.leaves);
        self.history.played.iter().filter(is_void).collect()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let head = [
            "fault",
            "deliveries",
            "p50 ms",
            "p99 ms",
            "max ms",
            "resumes",
            "p99 ms",
            "pause p50",
            "p99 ms",
            "recovered",
            "felt",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for played in &self.history.played {
            rows.push(self.row(played));
        }
        rows.iter().for_each(|row| text.push_str(&line(row)));
        let submits = self.submits();
        let verdict = &self.verdict;
        let looked: u64 = verdict.looked.values().sum();
        let _infallible = write!(
            text,
            "\n{} submits: {} acked, {} rejected, {} without an answer; {} events logged, {} deliveries, {} reads\n\
             lost {}, doubled {}, reordered {}; {} rules looked at {looked} times; seed {}; {:.0} s\n",
            submits.0,
            submits.1,
            submits.2,
            submits.3,
            self.logged,
            self.delays.deliveries.len(),
            self.history.reads.len(),
            verdict.count(&LOST),
            verdict.count(&DOUBLED),
            verdict.count(&REORDERED),
            verdict.looked.len(),
            self.plan.seed,
            self.took.as_secs_f64(),
        );
        let errors: Vec<&String> = self.history.diaries.iter().flat_map(|diary| &diary.errors).collect();
        if let Some(first) = errors.first() {
            let _infallible =
                writeln!(text, "{} times refused and come back, first by {first}", errors.len());
        }
        for (rule, (count, told)) in &verdict.broken {
            let _infallible = writeln!(text, "BROKEN {rule}: {count} times");
            for what in told {
                let _infallible = writeln!(text, "  {what}");
            }
        }
        for played in self.void() {
            let _infallible = writeln!(text, "VOID {}: it left none of {:?}", played.name, played.leaves);
        }
        text
    }

    /// The same for a file, with the plan to replay it.
    pub fn json(&self) -> Value {
        let steps: Vec<Value> = self
            .history
            .played
            .iter()
            .map(|played| json!({"fault": played.name, "began_us": played.began, "healed_us": played.healed, "felt": played.felt}))
            .collect();
        json!({
            "plan": self.plan,
            "steps": steps,
            "broken": self.verdict.broken.iter().map(|(rule, (count, told))| json!({"rule": rule, "count": count, "told": told})).collect::<Vec<_>>(),
            "looked": self.verdict.looked,
        })
    }

    fn row(&self, played: &Played) -> [String; 11] {
        let deliveries = Delays::within(&self.delays.deliveries, played.began, played.until);
        let resumes = Delays::within(&self.delays.resumes, played.began, played.until);
        let (pauses, recovered) = self.writing(played);
        let felt: Vec<String> = played
            .felt
            .iter()
            .filter(|(name, _)| *name != "events delivered")
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        [
            played.name.clone(),
            deliveries.len().to_string(),
            ms(quantile(&deliveries, 50)),
            ms(quantile(&deliveries, 99)),
            ms(quantile(&deliveries, 100)),
            resumes.len().to_string(),
            ms(quantile(&resumes, 99)),
            ms(quantile(&pauses, 50)),
            ms(quantile(&pauses, 99)),
            ms(recovered),
            felt.join(", "),
        ]
    }

    /// The longest that each client waited for the answer to a submit, to the
    /// shard that suffered if there is one; and how long after the healing the
    /// last submit from before it had its answer.
    fn writing(&self, played: &Played) -> (Vec<Micros>, Option<Micros>) {
        let shard = played.shard();
        let of_shard = |room: u64| {
            let room = self.rooms.iter().find(|known| known.id == room);
            room.is_some_and(|room| shard.is_none_or(|shard| room.shard == shard))
        };
        let (mut pauses, mut recovered) = (Vec::new(), None);
        for diary in &self.history.diaries {
            let answered = diary.attempts.iter().filter_map(|attempt| {
                let (at, _) = attempt.answer.as_ref()?;
                let is_in_time = (played.began..played.until).contains(at) && of_shard(attempt.room);
                is_in_time.then_some((attempt.sent, *at))
            });
            pauses.extend(answered.clone().map(|(sent, at)| at - sent).max());
            let sent_before = answered.filter(|(sent, _)| *sent < played.healed);
            recovered = recovered.max(sent_before.map(|(_, at)| at.saturating_sub(played.healed)).max());
        }
        pauses.sort_unstable();
        (pauses, recovered)
    }

    /// Ops in all, acked, rejected at last, and sendings without an answer.
    fn submits(&self) -> (usize, usize, usize, usize) {
        let attempts = || self.history.diaries.iter().flat_map(|diary| &diary.attempts);
        let count =
            |fits: fn(&Option<(Micros, Answer)>) -> bool| attempts().filter(|a| fits(&a.answer)).count();
        (
            attempts().count(),
            count(|answer| matches!(answer, Some((_, Answer::Ack { .. })))),
            count(|answer| matches!(answer, Some((_, Answer::Reject { .. })))),
            count(Option::is_none),
        )
    }
}

/// Names to the left, figures to the right.
fn line(row: &[String; 11]) -> String {
    let [name, n, p50, p99, max, resumes, resume_p99, pause_p50, pause_p99, recovered, felt] = row;
    format!(
        "{name:<36} {n:>10} {p50:>8} {p99:>8} {max:>8} {resumes:>8} {resume_p99:>8} {pause_p50:>9} {pause_p99:>8} \
         {recovered:>9}  {felt}\n"
    )
}

pub fn quantile(sorted: &[Micros], percent: usize) -> Option<Micros> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last * percent / 100])
}

pub fn ms(micros: Option<Micros>) -> String {
    micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.1}", micros as f64 / 1_000.0))
}
