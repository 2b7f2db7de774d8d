//! `roomgate shards promote`.

use std::cell::RefCell;
use std::time::Duration;

use clap::Args;

use super::told::{self, Report};
use crate::cli::{ConfigArgs, Failure};
use crate::config::Config;
use crate::store::promotion::{Decision, Promotion, PromotionError, Refusal, Wish};

#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The shard's name
    shard: String,
    /// This endpoint, rather than the one that has most of the log
    #[arg(long, value_name = "ENDPOINT")]
    to: Option<String>,
    /// How many standbys confirm a commit: the k of `ANY k (…)`. Of n standbys,
    /// n - k + 1 must answer
    #[arg(long, value_name = "K", default_value_t = 1)]
    confirmed_by: usize,
    /// Go on though acked events may be lost
    #[arg(long)]
    accept_loss: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait so long for the standbys to come to rest, for the promotion, and for
    /// the claim, each
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: PromoteArgs) -> Result<(), Failure> {
    let config = args.config.load()?.config;
    let mut report = Report::default();
    let ended = promote(&args, &config, &mut report).await;
    if args.json {
        report.failed = ended.as_ref().err().map(|failure| failure.message.clone());
        println!("{:#}", report.json());
    }
    ended
}

/// What is found out on the way goes into the report, also of what fails.
async fn promote(args: &PromoteArgs, config: &Config, report: &mut Report) -> Result<(), Failure> {
    let promotion = promotion_of(args, config)?;
    let (to, confirmed_by, accept_loss) = (args.to.clone(), args.confirmed_by, args.accept_loss);
    let wish = Wish { to, confirmed_by, accept_loss };
    let wait = Duration::from_secs(args.wait);
    let print = |text: &str| {
        if !args.json {
            println!("{text}");
        }
    };
    let (survey, decision) = promotion.survey(&wish, wait, say_once()).await?;
    print(&told::lines(&survey));
    report.survey = Some(survey.clone());
    let decision = decision.map_err(PromotionError::from)?;
    let Decision { endpoint, .. } = &decision;
    print(&told::reason(&decision));
    report.decision = Some(decision.clone());
    promotion.check_right(endpoint).await?;
    if args.dry_run {
        print("nothing was done (--dry-run)");
        return Ok(());
    }
    let timeline = promotion.promote(endpoint, wait, say_once()).await?;
    report.promoted = Some(timeline);
    print(&format!("{endpoint} is a primary now, on timeline {timeline}; what is left to do:"));
    report.left =
        told::left_to_do(&survey, &decision, &promotion.shard().endpoints, config.writes.durability);
    report.left.iter().for_each(|line| print(&format!("- {line}")));
    promotion.claim(endpoint, wait).await?;
    report.claimed = true;
    print(&format!("{endpoint} is claimed as the primary of shard {}: nodes write to it", args.shard));
    Ok(())
}

fn promotion_of(args: &PromoteArgs, config: &Config) -> Result<Promotion, Failure> {
    let wrong = |what: &str, known: Vec<&str>| {
        let message = format!("{what}: there are {}", known.join(", "));
        Failure { status: 2, message }
    };
    let shards = || config.shards.iter().map(|shard| shard.name.as_str()).collect();
    let promotion = Promotion::of(config, &args.shard)
        .ok_or_else(|| wrong(&format!("no shard is called {}", args.shard), shards()))?;
    let endpoints: Vec<&str> = promotion.shard().endpoints.iter().map(|known| known.name.as_str()).collect();
    if let Some(to) = args.to.as_deref().filter(|to| !endpoints.contains(to)) {
        return Err(wrong(&format!("--to {to}"), endpoints));
    }
    Ok(promotion)
}

/// Progress, without saying the same twice in a row.
fn say_once() -> impl Fn(&str) {
    let last = RefCell::new(String::new());
    move |text| {
        if last.replace(text.to_owned()) != text {
            eprintln!("==> {text}");
        }
    }
}

impl From<PromotionError> for Failure {
    fn from(error: PromotionError) -> Self {
        let status = match error {
            PromotionError::Refused(Refusal::NoSuchQuorum { .. }) => 2,
            _ => 1,
        };
        Self { status, message: error.to_string() }
    }
}
