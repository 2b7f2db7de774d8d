//! What people are told who may not do what they ask of a room.

use crate::protocol::{Code, Refusal};

pub fn owners_only() -> Refusal {
    Refusal::new(Code::Forbidden, "only an owner of the room may do this")
}

pub fn owner_stays() -> Refusal {
    Refusal::new(Code::Forbidden, "the room is theirs: its owner stays in it, as its owner")
}

pub fn editors_only() -> Refusal {
    Refusal::new(Code::Forbidden, "only editors may change the room")
}

pub fn archived() -> Refusal {
    Refusal::new(Code::RoomArchived, "the room is archived")
}

pub fn removed() -> Refusal {
    Refusal::new(Code::Forbidden, "you were removed from this room")
}

pub fn invite_needed() -> Refusal {
    Refusal::new(Code::Forbidden, "this room is open to invited people only")
}

pub fn password_needed() -> Refusal {
    Refusal::new(Code::PasswordRequired, "this room needs its password")
}

pub fn wrong_password() -> Refusal {
    Refusal::new(Code::BadPassword, "this is not the room's password")
}

/// Wrong, expired, revoked and used-up ones alike.
pub fn invalid_invite() -> Refusal {
    Refusal::new(Code::Forbidden, "this invite is not valid")
}

pub fn no_such_invite() -> Refusal {
    Refusal::new(Code::NotFound, "the room has no such invite")
}

pub fn too_many_invites(most: u32) -> Refusal {
    let message = format!(
        "the room has {most} invites, and may have no more; revoke some, and if you revoked many today, \
         wait a day (limits.invites_per_room)"
    );
    Refusal::new(Code::Forbidden, message)
}

pub fn too_much_metadata_in_all(most: u64) -> Refusal {
    let message = format!(
        "your rooms together may have {most} bytes of metadata; remove some first (limits.user_metadata_bytes)"
    );
    Refusal::new(Code::Forbidden, message)
}

/// Of what a room is to be.
pub fn too_much_metadata() -> Refusal {
    Refusal::new(Code::TooLarge, "metadata may have 16 KiB")
}

pub fn two_doors() -> Refusal {
    Refusal::new(Code::BadMessage, "a room with a password has access password")
}

pub fn needs_password() -> Refusal {
    Refusal::new(Code::BadMessage, "access password needs a password")
}
