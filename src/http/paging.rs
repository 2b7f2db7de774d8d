//! Lists, page by page: `?limit=&cursor=`, and `next_cursor` in the answer.

use serde::Deserialize;
use utoipa::IntoParams;

use super::error::{Answer, ApiError};
use crate::protocol::ObjectWriter;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// At most 1000 are given.
    #[param(value_type = Option<u32>, minimum = 1, default = 50)]
    limit: Option<String>,
    cursor: Option<String>,
}

impl Page {
    pub fn limit(&self) -> Answer<usize> {
        limit(self.limit.as_deref(), LIMIT_DEFAULT)
    }

    /// Where the list goes on, as `read` finds it in the cursor.
    pub fn after<T>(&self, read: impl FnOnce(&str) -> Option<T>) -> Answer<Option<T>> {
        self.cursor.as_deref().map(|text| read(text).ok_or_else(foreign_cursor)).transpose()
    }
}

/// `?limit=` of a list with a default of its own.
pub(super) fn limit(text: Option<&str>, default: usize) -> Answer<usize> {
    let Some(text) = text else { return Ok(default) };
    match text.parse::<usize>() {
        Ok(limit) if limit > 0 => Ok(limit.min(LIMIT_MAX)),
        _ => Err(ApiError::bad_message("limit is an integer of 1 or more")),
    }
}

pub(super) fn foreign_cursor() -> ApiError {
    ApiError::bad_message("this is not a cursor of this list")
}

/// `null` ends a list.
pub(super) fn next_cursor(list: ObjectWriter, next: Option<String>) -> String {
    match next {
        Some(cursor) => list.string("next_cursor", &cursor),
        None => list.raw("next_cursor", "null"),
    }
    .end()
}
