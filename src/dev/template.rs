//! A database cluster that was initialised once and is copied ever after.
//!
//! `initdb` and the roles take about two seconds, a copy a tenth of one. A copy
//! gets a system identifier of its own, as if it had been initialised: the
//! gateway tells shards apart by it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::process::run;
use super::{Error, account, binary};

/// Also names the cached copy: a change here makes a new template.
const ROLES: &str = "\
CREATE ROLE roomgate_owner LOGIN;
CREATE ROLE roomgate LOGIN;
CREATE ROLE replicator LOGIN REPLICATION;
GRANT pg_monitor TO roomgate;
CREATE DATABASE roomgate OWNER roomgate_owner;
";

/// Migrations run as `roomgate_owner`, and it may promote; the gateway's role
/// `roomgate` owns nothing and may only read and write rows.
const SCHEMAS: &str = "\
CREATE SCHEMA directory AUTHORIZATION roomgate_owner;
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO roomgate_owner;
GRANT USAGE ON SCHEMA public, directory TO roomgate;
ALTER DEFAULT PRIVILEGES FOR ROLE roomgate_owner IN SCHEMA public, directory \
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO roomgate;
ALTER DEFAULT PRIVILEGES FOR ROLE roomgate_owner IN SCHEMA public, directory \
GRANT USAGE, SELECT ON SEQUENCES TO roomgate;
";

const STATISTICS: &str = "CREATE EXTENSION pg_stat_statements;\n";

/// Puts a fresh cluster into `data`, which must not exist.
pub(super) async fn copy_to(data: &Path) -> Result<(), Error> {
    let template = cached().await?;
    run(
        &binary::find("cp", "coreutils")?,
        account::postgres()?,
        &["-a", "--reflink=auto", &template.display().to_string(), &data.display().to_string()],
        "",
    )
    .await?;
    renew_identity(data).await
}

/// The identifier is the first eight bytes of the control file. `pg_resetwal`
/// accepts the edited file as guesswork (hence `-f`), repairs its checksum and
/// writes a first log segment that carries the new identifier.
async fn renew_identity(data: &Path) -> Result<(), Error> {
    let control = data.join("global/pg_control");
    let what = control.display().to_string();
    let mut bytes = std::fs::read(&control).map_err(Error::io(&what))?;
    let identifier = rand::random_range(1..=i64::MAX);
    let start = bytes.get_mut(..8).ok_or_else(|| Error::Other(format!("{what} is too short")))?;
    start.copy_from_slice(&identifier.to_ne_bytes());
    std::fs::write(&control, bytes).map_err(Error::io(&what))?;
    let program = binary::postgres("pg_resetwal")?;
    run(&program, account::postgres()?, &["-f", "-D", &data.display().to_string()], "").await
}

async fn cached() -> Result<PathBuf, Error> {
    let root = std::env::temp_dir();
    let uid = account::postgres_uid()?;
    let recipe = [ROLES, SCHEMAS, STATISTICS, &binary::postgres("initdb")?.display().to_string()].concat();
    let digest = xxhash_rust::xxh3::xxh3_64(recipe.as_bytes());
    let place = root.join(format!("roomgate-template-{uid}-{digest:016x}"));
    match std::fs::symlink_metadata(&place) {
        // The temporary folder is everybody's: a template that another user has
        // put there is not taken.
        Ok(found) if found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0 => return Ok(place),
        Ok(_) => return Err(Error::Other(format!("{} is not ours; remove it", place.display()))),
        Err(_) => {}
    }
    let draft = root.join(format!("roomgate-template-draft-{:016x}", rand::random::<u64>()));
    initialise(&draft).await?;
    // Somebody else may have been quicker; theirs is as good.
    if std::fs::rename(&draft, &place).is_err() {
        std::fs::remove_dir_all(&draft).map_err(Error::io(draft.display().to_string()))?;
    }
    Ok(place)
}

async fn initialise(data: &Path) -> Result<(), Error> {
    let user = account::postgres()?;
    let data = data.display().to_string();
    let initdb = [
        "-D",
        &data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--no-sync",
    ];
    run(&binary::postgres("initdb")?, user, &initdb, "").await?;
    let server = binary::postgres("postgres")?;
    run(&server, user, &["--single", "-D", &data, "postgres"], ROLES).await?;
    let database = ["--single", "-D", &data, "roomgate"];
    run(&server, user, &database, SCHEMAS).await?;
    if statistics_available()? {
        run(&server, user, &database, STATISTICS).await?;
    }
    Ok(())
}

/// Whether the server has the extension that `db report` reads.
pub(super) fn statistics_available() -> Result<bool, Error> {
    let server = binary::postgres("postgres")?;
    let library = server.parent().and_then(Path::parent).map(|root| root.join("lib/pg_stat_statements.so"));
    Ok(library.is_some_and(|library| library.is_file()))
}
