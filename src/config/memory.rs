//! The memory that clients may take up.

use serde::{Deserialize, Serialize};

/// Bytes of requests, answers and room states at a time. 0 means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Of the node.
    pub node_bytes: usize,
    /// Of one user, or of one address without a token.
    pub user_bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { node_bytes: 256 << 20, user_bytes: 32 << 20 }
    }
}
