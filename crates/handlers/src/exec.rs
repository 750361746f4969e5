//! The exec handler: a command in the container exits with 0.

use std::time::Duration;

use cri::Cri;
use pod::ContainerId;

use crate::{MAX_OUTPUT, Outcome, spelling};

/// A `limit` of zero waits for as long as the command runs.
pub async fn exec(cri: &Cri, container: &ContainerId, command: &[String], limit: Duration) -> Outcome {
    match cri.exec_sync(container, command, limit).await {
        Ok(output) => {
            let text = combined(output.stdout, output.stderr);
            if output.exit_code == 0 { Outcome::Success(text) } else { Outcome::Failure(text) }
        }
        Err(e) if e.is_deadline() => Outcome::Failure(timed_out(command, limit)),
        // Without the container's id, which would make every event a different one.
        Err(e) => Outcome::Unknown(format!("rpc error: code = {:?} desc = {}", e.code, e.message)),
    }
}

fn timed_out(command: &[String], limit: Duration) -> String {
    format!("command timed out: {:?} timed out after {}", command.join(" "), spelling::duration(limit))
}

/// Standard output, then standard error: CRI does not say how they interleaved.
pub(crate) fn combined(mut stdout: Vec<u8>, stderr: Vec<u8>) -> String {
    stdout.extend(stderr);
    stdout.truncate(MAX_OUTPUT);
    String::from_utf8_lossy(&stdout).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_ran_too_long_is_named() {
        let command = ["sleep".to_owned(), "10".to_owned()];
        let text = timed_out(&command, Duration::from_secs(1));
        assert_eq!(text, "command timed out: \"sleep 10\" timed out after 1s");
    }

    #[test]
    fn output_is_cut_at_ten_kibibytes() {
        let text = combined(vec![b'a'; 9 * 1024], vec![b'b'; 9 * 1024]);
        assert_eq!(text.len(), MAX_OUTPUT);
        assert!(text.ends_with('b'));
    }
}
