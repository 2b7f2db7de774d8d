//! Finding the one submit that spoils a batch.
//!
//! A batch that PostgreSQL refuses for its content (22xxx, 23xxx, 42xxx) is run
//! again in halves until the culprit is alone: every other submit is written,
//! after at most 2·log2(n) more transactions, in the order in which it came.

use super::transaction::Cause;
use crate::db::{Class, DbError};
use crate::log::Submit;
use crate::protocol::{Code, Refusal};
use crate::store::misconfigured;

/// What the culprit is told, once it is alone.
pub(super) fn culprit(submit: &Submit, cause: &Cause) -> Refusal {
    match cause {
        // 22xxx: a value that PostgreSQL can't hold.
        Cause::Db(error) if is_about_a_value(error) && submit.operation.shape_id().is_some() => {
            Refusal::new(Code::InvalidShape, "the shape holds a value that can't be stored")
        }
        Cause::Db(error) if error.class() == Class::Misconfigured => misconfigured("the room's shard", error),
        _ => Refusal::new(Code::Internal, "this submit can't be stored"),
    }
}

fn is_about_a_value(error: &DbError) -> bool {
    error.class() == Class::BadInput && error.sqlstate().is_some_and(|state| state.starts_with("22"))
}
