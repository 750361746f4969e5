//! The host's ids that user namespaces of pods may have: those that the machine delegates to the user `kubelet` in its
//! subuid and subgid databases, or else all but the host's own.

use std::{fs, io, ops::Range, process::Command};

const USER: &str = "kubelet";
const TOOL: &str = "getsubids";

/// Equal ranges of ids, by number: range `n` begins at `n * per_pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    pub per_pod: u32,
    pub ranges: Range<u32>,
}

/// First id and how many.
pub type Delegated = (u32, u32);

#[derive(Debug, thiserror::Error)]
pub enum UserIdsError {
    #[error("first id {0} delegated to user {USER} is not a multiple of userNamespaces.idsPerPod ({1})")]
    Unaligned(u32, u32),
    #[error("first id {0} delegated to user {USER} is below {1}: these ids are the host's own")]
    Host(u32, u32),
    #[error("{0} ids for user {USER} are not a multiple of userNamespaces.idsPerPod ({1})")]
    Remainder(u32, u32),
    #[error("{0} ids for user {USER} are not enough for {1} pods")]
    TooFew(u32, u32),
    #[error("{TOOL} {USER} fails: {0}")]
    Tool(String),
    #[error("{TOOL} gives user {USER} other groups than users")]
    Mismatch,
    #[error("{TOOL} answers {0:?}, which is not one range of ids")]
    Answer(String),
}

impl UserIds {
    pub fn new(per_pod: u32, delegated: Option<Delegated>, max_pods: u32) -> Result<Self, UserIdsError> {
        let (first, count) = delegated.unwrap_or((per_pod, 0_u32.wrapping_sub(per_pod)));
        if first % per_pod != 0 {
            return Err(UserIdsError::Unaligned(first, per_pod));
        }
        if first < per_pod {
            return Err(UserIdsError::Host(first, per_pod));
        }
        if count % per_pod != 0 {
            return Err(UserIdsError::Remainder(count, per_pod));
        }
        if count / per_pod < max_pods {
            return Err(UserIdsError::TooFew(count, max_pods));
        }
        let number = first / per_pod;
        Ok(Self { per_pod, ranges: number..number.saturating_add(count / per_pod) })
    }
}

impl Default for UserIds {
    fn default() -> Self {
        Self { per_pod: 65_536, ranges: 1..65_536 }
    }
}

/// None: the machine has no such user, or no tool that knows of delegation.
pub fn delegated() -> Result<Option<Delegated>, UserIdsError> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.split(':').next() == Some(USER)) {
        return Ok(None);
    }
    let Some(uids) = ask(&[USER])? else { return Ok(None) };
    if ask(&["-g", USER])?.as_ref() != Some(&uids) {
        return Err(UserIdsError::Mismatch);
    }
    parse(&uids).map(Some)
}

fn ask(arguments: &[&str]) -> Result<Option<String>, UserIdsError> {
    match Command::new(TOOL).args(arguments).output() {
        Ok(answer) if answer.status.success() => Ok(Some(String::from_utf8_lossy(&answer.stdout).into_owned())),
        Ok(answer) => Err(UserIdsError::Tool(String::from_utf8_lossy(&answer.stderr).trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(UserIdsError::Tool(e.to_string())),
    }
}

/// `0: kubelet 65536 2147483648`: one line, since several ranges can't be told from an accident.
fn parse(answer: &str) -> Result<Delegated, UserIdsError> {
    let range = || {
        let words: Vec<&str> = answer.split_whitespace().collect();
        let [_, _, first, count] = words[..] else { return None };
        Some((first.parse().ok()?, count.parse().ok()?))
    };
    range().ok_or_else(|| UserIdsError::Answer(answer.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_all_ids_but_the_hosts_or_those_that_are_delegated() {
        assert_eq!(UserIds::new(65_536, None, 110).unwrap(), UserIds::default());
        let delegated = parse("0: kubelet 131072 13107200\n").unwrap();
        assert_eq!(UserIds::new(65_536, Some(delegated), 110).unwrap().ranges, 2..202);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let error = |delegated| UserIds::new(65_536, Some(delegated), 110).unwrap_err();
        assert!(matches!(error((100_000, 13_107_200)), UserIdsError::Unaligned(..)));
        assert!(matches!(error((0, 13_107_200)), UserIdsError::Host(..)));
        assert!(matches!(error((65_536, 13_107_201)), UserIdsError::Remainder(..)));
        assert!(matches!(error((65_536, 65_536)), UserIdsError::TooFew(..)));
        let two = "0: kubelet 65536 65536\n1: kubelet 655360 65536\n";
        assert!(["", "kubelet", two].iter().all(|answer| parse(answer).is_err()));
    }
}
