//! How a command ends: exit codes, messages, and faults of the program itself.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use directrix::corpus::{self, visible};
use directrix::sae;

use super::terminal::{complain, remark};
use super::{ranks, watch};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
/// What a shell gives for a command that ctrl-C ended.
const STOPPED: u8 = 130;

/// The latest panic: what it said and where. Readers of hostile files catch panics of the crates they use, so one is
/// shown only when it reaches [`exit_code`].
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// An option whose value cannot be, or does not go with the others.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error of an option whose value cannot be.
pub(crate) fn usage(problem: impl Into<String>) -> anyhow::Error {
    Usage(problem.into()).into()
}

/// Says what is wrong with the flags: of a value, in one sentence which flag it is of, what was given and what may be.
pub(crate) fn wrong_usage(error: &clap::Error) -> ! {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (flag, given) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    match (error.kind(), flag, given, std::error::Error::source(error)) {
        (ErrorKind::ValueValidation, Some(flag), Some(given), Some(instead)) => {
            let flag = flag.split(' ').next().unwrap_or(flag);
            let given = if given.is_empty() { "''".into() } else { visible(&given.escape_debug().to_string()) };
            remark(&format!("error: {flag} {given}: {instead}"));
            std::process::exit(i32::from(WRONG_USAGE))
        }
        _ => error.exit(),
    }
}

/// Runs a command and shows what went wrong, if anything did.
pub(crate) fn exit_code(command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    let code = said(command);
    ranks::end(code);
    ExitCode::from(code)
}

fn said(command: impl FnOnce() -> anyhow::Result<()>) -> u8 {
    std::panic::set_hook(Box::new(remember));
    let Ok(result) = catch_unwind(AssertUnwindSafe(command)) else {
        let panic = PANIC.lock().ok().and_then(|mut panic| panic.take()).unwrap_or_default();
        complain(&format!(
            "{}: directrix stopped at a fault of its own: {panic}\n\
             Please report this, with the command and directrix {}.",
            ranks::before_failure(),
            env!("CARGO_PKG_VERSION")
        ));
        return FAILED;
    };
    let Err(error) = result else { return DONE };
    if is_broken_pipe(&error) {
        return DONE;
    }
    let message = message(&error);
    if watch::is_stopped() {
        remark(&message);
        return STOPPED;
    }
    complain(&format!("{}: {message}", ranks::before_failure()));
    if is_usage(&error) { WRONG_USAGE } else { FAILED }
}

/// Whether an option is at fault, not what was found when it was done.
fn is_usage(error: &anyhow::Error) -> bool {
    let of_training = error.downcast_ref::<sae::Error>();
    error.is::<Usage>()
        || matches!(error.downcast_ref(), Some(corpus::Error::Memory { .. }))
        || matches!(of_training, Some(sae::Error::Recipe { .. } | sae::Error::Corpus(corpus::Error::Memory { .. })))
}

fn remember(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map_or_else(String::new, |location| format!(" ({location})"));
    let payload = panic.payload();
    let said = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref().copied());
    if let Ok(mut latest) = PANIC.lock() {
        *latest = Some(format!("{}{location}", said.unwrap_or("no message")));
    }
}

/// The error and its causes, without the causes that a message already contains.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| match message.as_str() {
        "" => cause,
        said if said.contains(&cause) => message,
        _ => format!("{message}: {cause}"),
    })
}

/// The reader of our output has seen enough, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::message;

    #[test]
    fn a_message_says_nothing_twice() {
        assert_eq!(message(&anyhow!("disk full").context("cannot write `a`")), "cannot write `a`: disk full");
        assert_eq!(message(&anyhow!("disk full").context("`a`: disk full; make room")), "`a`: disk full; make room");
    }
}
