//! "Look which tokens were revoked", and people who are to be in no entry.

use fred::interfaces::ClientLike;

use super::client::bounded;
use super::command::{ALL_MEMBERS, Command, Job, REVOKED};
use super::presence::remove;
use super::seal::Entry;
use super::{Away, Bus};

/// Keys asked for at once.
const PAGE: i64 = 1000;

impl Bus {
    /// Tells every node, this one in any case.
    pub async fn tell_revoked(&self) {
        self.shared.revoked.notify_one();
        if !self.works(Job::Revocations) {
            return;
        }
        let client = self.shared.line.client();
        let args = vec![REVOKED.into(), self.shared.seals.close(REVOKED, b"").into()];
        if let Err(error) = bounded(Command::RevokedSend.send::<()>(&client, args)).await {
            tracing::debug!(%error, "can't tell the other nodes of revoked tokens");
        }
    }

    /// Resolves when tokens may have been revoked. For one listener; cancel-safe.
    pub async fn revoked(&self) {
        self.shared.revoked.notified().await;
    }

    /// Takes the members for whom `is_theirs` out of all rooms' entries: those
    /// of a node that died would stay until somebody reads them.
    pub async fn forget_members(&self, is_theirs: impl Fn(&str) -> bool) -> Result<(), Away> {
        let client = self.shared.line.client();
        let mut cursor = "0".to_owned();
        loop {
            if !client.is_connected() {
                return Err(Away("not connected".to_owned()));
            }
            let args = vec![cursor.into(), "MATCH".into(), ALL_MEMBERS.into(), "COUNT".into(), PAGE.into()];
            let page = Command::MembersScan.send::<(String, Vec<String>)>(&client, args);
            let (next, keys) = bounded(page).await?;
            for key in keys {
                let list = Command::MembersList.send(&client, vec![key.clone().into()]);
                let entries: Vec<(String, String)> = bounded(list).await?;
                // Also of forged entries: nothing is lost with them.
                let theirs = |entry: &str| Entry::read(entry).is_some_and(|entry| is_theirs(entry.member));
                let sessions: Vec<String> = entries
                    .into_iter()
                    .filter(|(_, entry)| theirs(entry))
                    .map(|(session, _)| session)
                    .collect();
                remove(&client, key, sessions).await?;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}
