//! Answers of Redis that say no, and the cure for each. Pure.
//!
//! A refusal is not a broken connection: a new connection would be refused as
//! well, so nothing here reconnects.

use std::collections::{BTreeMap, BTreeSet};

use fred::error::{Error, ErrorKind};

use super::command::{Command, Job, On};

/// One command that Redis refused, with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub command: Command,
    error: String,
}

/// How the bus stands with Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Redis does not answer.
    Away,
    /// Redis answers, and refuses these.
    Refuses(Vec<Refusal>),
    Works,
}

impl Refusal {
    /// `None` if the error is not an answer of Redis.
    pub fn of(command: Command, error: &Error) -> Option<Self> {
        is_refusal(error).then(|| Self { command, error: error.details().to_owned() })
    }

    fn code(&self) -> &str {
        code(&self.error)
    }

    /// Refusals of one cause share a line.
    fn cause(&self) -> &str {
        if self.code() == "ERR" { &self.error } else { self.code() }
    }

    /// The ACL rule that is missing.
    fn missing_rule(&self) -> String {
        let text = self.error.strip_prefix(self.code()).unwrap_or_default();
        let is_pattern = text.contains("channel") || text.contains("keys");
        match self.command.on() {
            On::Server => format!("+{}", self.command.word().to_lowercase()),
            on if is_pattern => on.pattern().to_owned(),
            _ => format!("+{}", self.command.word().to_lowercase()),
        }
    }
}

/// Whether Redis answered with an error, which begins with a code in capitals.
pub(super) fn is_refusal(error: &Error) -> bool {
    let is_answer = !matches!(
        error.kind(),
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Url
    );
    let code = code(error.details());
    is_answer && code.len() >= 3 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn code(error: &str) -> &str {
    error.split(' ').next().unwrap_or_default()
}

impl Standing {
    pub fn works(&self, job: Job) -> bool {
        match self {
            Self::Away => false,
            Self::Refuses(refusals) => refusals.iter().all(|refusal| !refusal.command.jobs().contains(&job)),
            Self::Works => true,
        }
    }

    /// Whether Redis answers and refuses a command of the job.
    pub fn refuses(&self, job: Job) -> bool {
        *self != Self::Away && !self.works(job)
    }

    pub fn refuses_command(&self, command: Command) -> bool {
        matches!(self, Self::Refuses(refusals) if refusals.iter().any(|refusal| refusal.command == command))
    }

    /// A line for each cause, with the effect and the cure. `user`: as the ACL
    /// names the gateway's user.
    pub fn problems(&self, user: &str) -> Vec<String> {
        match self {
            Self::Works => Vec::new(),
            Self::Away => {
                vec!["Redis doesn't answer: events of other nodes arrive through the log".to_owned()]
            }
            Self::Refuses(refusals) => {
                let mut causes: BTreeMap<&str, Vec<&Refusal>> = BTreeMap::new();
                refusals.iter().for_each(|refusal| causes.entry(refusal.cause()).or_default().push(refusal));
                causes.into_values().map(|refusals| problem(&refusals, user)).collect()
            }
        }
    }
}

/// Refusals of one cause.
fn problem(refusals: &[&Refusal], user: &str) -> String {
    let commands = refusals.iter().map(|refusal| {
        let (word, on) = (refusal.command.word(), refusal.command.on().name());
        if on.is_empty() { word.to_owned() } else { format!("{word} {on}") }
    });
    let commands = commands.collect::<Vec<_>>().join(", ");
    let jobs: BTreeSet<Job> = refusals.iter().flat_map(|refusal| refusal.command.jobs()).copied().collect();
    let effects = jobs.into_iter().map(effect).collect::<Vec<_>>().join("; ");
    let error = &refusals[0].error;
    format!("Redis refuses {commands} ({error}): {effects}. {}", cure(refusals, user))
}

fn effect(job: Job) -> &'static str {
    match job {
        Job::Events => "events of other nodes arrive through the log",
        Job::Presence => "rooms show only the people of their own node",
        Job::Limits => "limits count on each node alone",
        Job::Revocations => "nodes notice revoked tokens only by looking every 2 s",
        Job::Erasures => "presence entries of erased people stay until they expire",
    }
}

fn cure(refusals: &[&Refusal], user: &str) -> String {
    let error = refusals[0].error.as_str();
    let text = match refusals[0].code() {
        "NOPERM" => {
            let rules: BTreeSet<String> = refusals.iter().map(|refusal| refusal.missing_rule()).collect();
            let rules = rules.into_iter().collect::<Vec<_>>().join(" ");
            return format!("Grant the missing permission: ACL SETUSER {user} {rules}");
        }
        "OOM" => {
            "Raise maxmemory, or set maxmemory-policy volatile-ttl: every key of the gateway expires and is \
             stored again"
        }
        "READONLY" => "Point redis.url at the primary, or promote this replica: REPLICAOF NO ONE",
        "MASTERDOWN" => "Restore this replica's primary, or point redis.url at the primary",
        "MISCONF" => {
            "Let Redis save again (disk space, permissions), or CONFIG SET stop-writes-on-bgsave-error no: \
             the gateway needs no saved data"
        }
        "NOAUTH" => "Set redis.username and redis.password or redis.password_file, and restart the node",
        "WRONGPASS" => {
            "Correct redis.username and redis.password or redis.password_file and restart the node, or set \
             this password in Redis"
        }
        "LOADING" => "Wait until Redis has loaded its data",
        "CLUSTERDOWN" => "Assign every slot of the Redis cluster and restore its primaries",
        "MOVED" | "ASK" | "CROSSSLOT" => "Point redis.url at a Redis that is not part of a cluster",
        "NOREPLICAS" => "Restore the replicas of Redis, or lower min-replicas-to-write",
        "BUSY" => "End the script that blocks Redis: SCRIPT KILL",
        "WRONGTYPE" => "Give the gateway a Redis of its own: another program uses its keys",
        "ERR" if error.contains("max number of clients") => "Raise maxclients of Redis",
        "ERR" if error.contains("unknown command") => {
            "Use Redis 7.0 or later, and rename none of these commands"
        }
        _ => "See the log of Redis",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(command: Command, error: &str) -> Refusal {
        let kind = ErrorKind::Unknown;
        Refusal::of(command, &Error::new(kind, error.to_owned())).unwrap()
    }

    #[test]
    fn broken_connections_are_no_refusals() {
        for (kind, text) in [
            (ErrorKind::IO, "Connection reset by peer (os error 104)"),
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::IO, "EOF"),
            (ErrorKind::Unknown, "No response!"),
            (ErrorKind::Protocol, "Expected string."),
        ] {
            assert!(!is_refusal(&Error::new(kind, text)), "{text}");
        }
    }

    #[test]
    fn every_command_names_its_effect_unless_it_has_none() {
        for command in Command::ALL {
            let standing = Standing::Refuses(vec![refusal(*command, "OOM command not allowed")]);
            let problems = standing.problems("default");
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains(command.word()) && problems[0].contains("Raise maxmemory"));
            for job in [Job::Events, Job::Presence, Job::Limits, Job::Revocations, Job::Erasures] {
                assert_eq!(standing.works(job), !command.jobs().contains(&job), "{command:?} {job:?}");
            }
        }
    }

    #[test]
    fn every_cause_has_its_own_line_and_cure() {
        let cures = [
            ("OOM command not allowed when used memory > 'maxmemory'.", "maxmemory-policy"),
            ("READONLY You can't write against a read only replica.", "REPLICAOF NO ONE"),
            ("MISCONF Redis is configured to save RDB snapshots", "stop-writes-on-bgsave-error"),
            ("NOAUTH Authentication required.", "redis.password"),
            ("WRONGPASS invalid username-password pair", "redis.password"),
            ("LOADING Redis is loading the dataset in memory", "Wait"),
            ("CLUSTERDOWN Hash slot not served", "slot"),
            ("MOVED 3999 127.0.0.1:6381", "not part of a cluster"),
            ("MASTERDOWN Link with MASTER is down", "primary"),
            ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
            ("BUSY Redis is busy running a script.", "SCRIPT KILL"),
            ("WRONGTYPE Operation against a key", "a Redis of its own"),
            ("ERR max number of clients reached", "maxclients"),
            ("ERR unknown command 'SPUBLISH'", "Redis 7.0"),
            ("NEWCODE of a later Redis", "log of Redis"),
        ];
        let refusals = cures.map(|(error, _)| refusal(Command::MemberEnter, error)).to_vec();
        for ((error, cure), refusal) in cures.iter().zip(&refusals) {
            let problem = Standing::Refuses(vec![refusal.clone()]).problems("default").remove(0);
            assert!(problem.contains(cure) && problem.contains(error), "{problem}");
        }
        assert_eq!(Standing::Refuses(refusals).problems("default").len(), cures.len());
    }
}
