//! The text of `--help`: every flag with its type, meaning and default.

use std::fmt::Write as _;

use super::{FLAGS, Flag, Sets, shown};
use crate::{
    config::{self, document},
    gates,
    support::Support,
    version,
};

const ABOUT: &str = "The node agent: runs the pods that are bound to this node, from the API server (--kubeconfig), from a \
                     directory of manifests\n(--pod-manifest-path) or from a URL (--manifest-url), and reports what runs.";

const COMMANDS: &str = "  doctor   says whether this machine is fit to be a node\n  \
                        explain  says what the running agent does for a pod, and what that waits for\n  \
                        install  puts this program in the place of the machine's kubelet\n  \
                        join     makes a machine a node of a k3s cluster\n";

pub fn text() -> String {
    let mut out = format!("{ABOUT}\nThis is ferrolet {}, a drop-in kubelet.\n\n", version::FERROLET);
    let _ = write!(out, "Usage:\n  kubelet [flags]\n  kubelet COMMAND --help\n\nCommands:\n{COMMANDS}\nFlags:\n");
    let defaults = config::flag_defaults();
    let heads: Vec<String> = FLAGS.iter().map(head).collect();
    let width = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0) + 3;
    for (flag, head) in FLAGS.iter().zip(&heads) {
        let default = match flag.sets {
            Sets::Own { default, .. } => default.to_owned(),
            Sets::Config(path) => shown(document::at(&defaults, path)),
        };
        let _ = write!(out, "{head:width$}{}", about(flag));
        if !matches!(default.as_str(), "" | "false" | "0" | "0s") {
            let _ = write!(out, " (default {default})");
        }
        if flag.deprecated {
            out.push_str(" (DEPRECATED)");
        }
        if let Support::NotYet(reason) = flag.support() {
            let _ = write!(out, " (not yet: {reason})");
        }
        out.push('\n');
        if flag.name == "feature-gates" {
            out.extend(gates::help_lines().map(|line| format!("{:16}{line}\n", "")));
        }
    }
    out
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
    format!("  {short}--{} {}", flag.name, flag.reads.type_name())
}

fn about(flag: &Flag) -> String {
    match flag.sets {
        Sets::Own { help, .. } => help.to_owned(),
        Sets::Config(path) => format!("{path} of the configuration file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag() {
        let text = text();
        for flag in FLAGS {
            assert!(text.contains(&format!("--{} ", flag.name)), "{}", flag.name);
        }
        assert!(text.contains("  -v, --v Level"));
        assert!(text.contains("readOnlyPort of the configuration file (default 10255)"), "the flags' own defaults");
    }
}
