//! `roomgate shards`: what an operator does to shards by hand.

mod add;
mod cleanup;
mod look;
mod moving;
mod open;
mod progress;
mod promote;
mod told;

use clap::Subcommand;

use super::Failure;

/// Look after the shards by hand.
#[derive(Debug, Subcommand)]
pub enum ShardsVerb {
    /// Show every shard: its slots, rooms, bytes, and the moves under way.
    #[command(after_help = "Example:\n  roomgate shards list --config config/roomgate.toml")]
    List(look::ListArgs),
    /// Take a new, empty shard in; slots are moved to it afterwards.
    ///
    /// Its [[shards]] must stand in the configuration, this one and that of every
    /// node; a running node reads it again at SIGHUP. Brings up its schema, checks
    /// that it is empty, and claims its primary.
    #[command(after_help = "Example:\n  roomgate shards add c && roomgate shards move")]
    Add(add::AddArgs),
    /// Show which slots should move where, by the weights of the shards and the
    /// size of what is in the slots.
    ///
    /// A shard of weight 0 is emptied.
    #[command(after_help = "Examples:\n  roomgate shards plan\n  roomgate shards plan --json > plan.json")]
    Plan(moving::PlanArgs),
    /// Move slots while people draw: those of the plan, or those that are named.
    ///
    /// May be stopped with Ctrl-C and run again at any time; what was cut short is
    /// finished first.
    #[command(after_help = "Examples:\n  roomgate shards move\n  roomgate shards move --plan plan.json\n  \
                      roomgate shards move --slots 0-99,4711 --to c --bytes-per-second 20000000")]
    Move(moving::MoveArgs),
    /// Read every row of slots, wherever they are: counts, digests, holes, owners.
    #[command(after_help = "Examples:\n  roomgate shards verify\n  roomgate shards verify --slots 17 --json")]
    Verify(look::VerifyArgs),
    /// Delete what is left behind of slots that have moved.
    #[command(after_help = "Example:\n  roomgate shards cleanup --older-than 86400")]
    Cleanup(cleanup::CleanupArgs),
    /// Make a standby the primary of a shard whose primary is gone.
    ///
    /// Asks every endpoint of the shard how far it is, promotes the one that has
    /// most of the log, and claims it in the directory, so that nodes write to it
    /// and the old primary is fenced off. Refuses while a primary answers, and
    /// while a standby is silent that may have what no other has. Needs
    /// [migrations] user to be allowed to promote: GRANT EXECUTE ON FUNCTION
    /// pg_promote(boolean, integer).
    #[command(
        after_help = "Examples:\n  roomgate shards promote a --dry-run\n  roomgate shards promote a\n  \
                      roomgate shards promote a --to a-3 --confirmed-by 2"
    )]
    Promote(promote::PromoteArgs),
}

pub(super) async fn run(verb: ShardsVerb) -> Result<(), Failure> {
    match verb {
        ShardsVerb::List(args) => look::list(args).await,
        ShardsVerb::Add(args) => add::run(args).await,
        ShardsVerb::Plan(args) => moving::show_plan(args).await,
        ShardsVerb::Move(args) => moving::run(args).await,
        ShardsVerb::Verify(args) => look::verify(args).await,
        ShardsVerb::Cleanup(args) => cleanup::run(args).await,
        ShardsVerb::Promote(args) => promote::run(args).await,
    }
}
