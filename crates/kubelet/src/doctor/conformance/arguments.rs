//! The words after `kubelet doctor`: the agent's flags, and those of the check of the runtime.

/// `--runtime` and `--image`, taken out of the agent's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Arguments {
    /// The runtime is to be checked, by pods that are made for it.
    pub runtime: bool,
    /// What those pods run.
    pub image: Option<String>,
    /// All others.
    pub agent: Vec<String>,
}

impl Arguments {
    pub(in crate::doctor) fn read(args: &[String]) -> Self {
        let mut read = Self::default();
        let mut words = args.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--runtime" => read.runtime = true,
                "--image" => read.image = words.next().cloned(),
                other => match other.strip_prefix("--image=") {
                    Some(image) => read.image = Some(image.to_owned()),
                    None => read.agent.push(other.to_owned()),
                },
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Arguments {
        Arguments::read(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_agents_flags_stay_as_they_are() {
        let flags = ["--config=/c", "--kubeconfig", "/k"];
        assert_eq!(read(&flags).agent, flags);
        assert_eq!((read(&flags).runtime, read(&flags).image), (false, None));
    }

    #[test]
    fn an_image_is_told_in_one_word_or_in_two() {
        for words in [&["--runtime", "--image=busybox", "--v=2"][..], &["--image", "busybox", "--v=2", "--runtime"]] {
            let arguments = read(words);
            assert_eq!((arguments.runtime, arguments.image.as_deref()), (true, Some("busybox")));
            assert_eq!(arguments.agent, ["--v=2"]);
        }
    }
}
