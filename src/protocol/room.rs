//! What the wire says of a room and of the people in it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a person may do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Viewer,
    Editor,
    Owner,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// The role of a person without a role of their own. It is never `owner`: else
/// everybody with a room's password could remove its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DefaultRole {
    Viewer,
    Editor,
}

impl DefaultRole {
    pub fn as_str(self) -> &'static str {
        Role::from(self).as_str()
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor].into_iter().find(|role| role.as_str() == text)
    }
}

impl From<DefaultRole> for Role {
    fn from(role: DefaultRole) -> Self {
        match role {
            DefaultRole::Viewer => Self::Viewer,
            DefaultRole::Editor => Self::Editor,
        }
    }
}

/// Which shapes a room takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// Checked types and fields: rect, circle, pencil, …
    Drawing,
    /// Any object with a string `id`.
    Open,
}

impl Schema {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drawing => "drawing",
            Self::Open => "open",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Drawing, Self::Open].into_iter().find(|schema| schema.as_str() == text)
    }
}

/// Who may enter a room without being a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everyone, with the room's `default_role`.
    Public,
    /// Whoever knows the password, once; then as a member.
    Password,
    /// Whoever was invited.
    Invite,
}

impl Access {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Password => "password",
            Self::Invite => "invite",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Public, Self::Password, Self::Invite].into_iter().find(|access| access.as_str() == text)
    }
}
