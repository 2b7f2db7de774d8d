//! Patroni starts PostgreSQL as a daemon that outlives it, so no parent-death
//! signal reaches it. A shell that waits for our end ends what runs below a
//! folder: when this is dropped, and when this process dies, however it does.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub struct Guardian(Child);

/// Reads until our end of its pipe is closed. Then all servers that work below
/// the folder are killed, until three looks in a row find none: one that is just
/// being started is seen at the next look.
const SCRIPT: &str = r#"
cat >/dev/null
clean=0
for look in $(seq 100); do
    clean=$((clean + 1))
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd") in "$1"/*) ;; *) continue ;; esac
        read -r name <"$process/comm" || continue
        case $name in
            postgres | initdb | pg_* | psql | patroni* | python3*) kill -9 "${process#/proc/}"; clean=0 ;;
        esac
    done
    [ "$clean" -lt 3 ] || exit 0
    sleep 0.05
done
"#;

impl Guardian {
    pub fn over(folder: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "guardian", &folder.display().to_string()]);
        // A group of its own: Ctrl-C must not reach it.
        shell.process_group(0).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(shell.spawn().expect("a shell"))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Waiting closes the pipe first.
        self.0.wait().expect("it is our child");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use roomgate::dev::Scratch;

    use super::*;

    #[test]
    fn what_works_below_the_folder_ends_with_its_guardian_and_nothing_else_does() {
        let (ours, other) = (Scratch::new("guardian").unwrap(), Scratch::new("guardian").unwrap());
        let sleeps = |folder: &Scratch| {
            std::fs::create_dir(folder.path().join("data")).unwrap();
            let mut python = Command::new("/usr/bin/python3");
            python.args(["-c", "import time; time.sleep(1000)"]).process_group(0);
            python.current_dir(folder.path().join("data")).spawn().unwrap()
        };
        let (mut below, mut elsewhere) = (sleeps(&ours), sleeps(&other));
        drop(Guardian::over(ours.path()));
        assert_eq!(below.wait().unwrap().signal(), Some(9));
        assert!(elsewhere.try_wait().unwrap().is_none());
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
    }
}
