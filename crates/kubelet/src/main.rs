//! The `kubelet` binary: reads its options, starts logging, and runs the agent.

use std::{process::ExitCode, time::Duration};

use apiserver::with_causes;
use host::Clock;
use kubelet::{
    app, doctor, explain, install, join, lock, logging,
    options::{self, Options, Request},
};

fn main() -> ExitCode {
    let clock = Clock::start();
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(ended) = command(&args, clock) {
        return ended;
    }
    let outcome = match options::read(&args) {
        Ok(Request::Print { out, note }) => {
            print!("{out}");
            eprint!("{note}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => {
            host::memory::without_thread_caches();
            start(*options, clock)
        }
        Err(error) => Err(error.into()),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::command_failed(clock, &with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

/// What the first word asks for besides the agent; None where it is a flag of the agent.
fn command(args: &[String], clock: Clock) -> Option<ExitCode> {
    let (word, rest) = args.split_first()?;
    let good = match word.as_str() {
        "explain" => explain::ask(rest).map(|answer| print!("{answer}")).map(|()| true),
        "doctor" => doctor::run(rest, clock),
        "join" => join::run(rest, clock).map(|report| print!("{report}")).map(|()| true),
        "install" => install::run(rest).map(|()| true),
        _ => return None,
    };
    Some(match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    })
}

/// Longer than the time between two looks of an idle node at its disk, which would else make a thread each.
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(15);

fn start(options: Options, clock: Clock) -> anyhow::Result<()> {
    logging::init(&options.config.logging, clock);
    options.log_start();
    options.validate()?;
    let lock_file = options.flags.lock_file.clone();
    host::memory::share_one_heap();
    let _lock = lock_file.as_deref().map(lock::acquire).transpose()?;
    let watched = lock_file.filter(|_| options.flags.exit_on_lock_contention);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(BLOCKING_THREAD_IDLE)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let Some(watched) = watched else { return app::run(options, clock).await };
        tokio::select! {
            ended = app::run(options, clock) => ended,
            contended = lock::contended(&watched) => Ok(contended?),
        }
    })
}
