//! What `guard` and `generate --guard` have in common: the flags of a guard of a growing text, and how its end is told.

use super::{
    CommandError, Exit, classify,
    decision_args::{DecisionArgs, shown},
    output::counted,
    policy::{PolicyArgs, check_policy},
};
use crate::{
    client::{ClientError, PolicyChoice, RpcError},
    proto::{
        GuardCadence, GuardEnded, GuardFailureMode, GuardLook, GuardMode, GuardOptions, GuardRetracted,
        guard_ended::Reason,
    },
};

/// By what a growing text is judged, and when it is released.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(super) struct GuardArgs {
    /// When text is released; hold-back without this
    #[arg(long, value_enum, value_name = "WHEN")]
    mode: Option<Mode>,
    /// What becomes of text that the guard fails to judge; closed without this
    #[arg(long, value_enum, value_name = "WHAT")]
    on_failure: Option<OnFailure>,
    #[command(flatten)]
    looks: LookArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    pub(super) decision: DecisionArgs,
}

/// Where a guard looks at a growing text, and when a part of it is blocked.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(super) struct LookArgs {
    /// Look after so many tokens, 8 to 512; the server's default is 64
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Do not look at the ends of sentences and lines as well
    #[arg(long)]
    no_sentence_end: bool,
    /// A look at a part of the text finds it unsafe if its unsafe_score is at least this; the server's default is 0.5. The
    /// complete text is judged by its label
    #[arg(long, value_name = "0..1", allow_negative_numbers = true)]
    interim_threshold: Option<f64>,
    /// Unsafe looks in a row before a part of the text is blocked, 1 to 8; the server's default is 2
    #[arg(long, value_name = "LOOKS", value_parser = clap::value_parser!(u32).range(1..))]
    confirmations: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum Mode {
    /// When a look that covers it has passed.
    HoldBack,
    /// At once; what turns out to be unsafe is reported, and the text ends there.
    Optimistic,
    /// At once, and nothing ends it; looks are only reported.
    Observe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum OnFailure {
    /// It is not released, and the command ends.
    Closed,
    /// It is released, and standard error says so.
    Open,
}

impl GuardArgs {
    /// Whether any of them is given.
    pub(super) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// The policy that they choose.
    pub(super) fn policy(&self) -> Result<PolicyChoice, CommandError> {
        self.policy.choice()
    }

    /// Checks that the end of a text has the decision that was asked for, if all of the text was judged. A complete text has no
    /// verdict where the guard failed and the text is released or observed all the same.
    pub(super) fn check_end(&self, ended: &GuardEnded) -> Result<(), ClientError> {
        match ended.reason() {
            Reason::Complete if ended.verdict.is_some() => self.decision.check(ended.decision.as_ref()),
            _ => Ok(()),
        }
    }

    /// The options of a request.
    pub(super) fn options(&self) -> GuardOptions {
        let mode = match self.mode {
            None | Some(Mode::HoldBack) => GuardMode::HoldBack,
            Some(Mode::Optimistic) => GuardMode::Optimistic,
            Some(Mode::Observe) => GuardMode::Observe,
        };
        let failure_mode = match self.on_failure {
            None | Some(OnFailure::Closed) => GuardFailureMode::Closed,
            Some(OnFailure::Open) => GuardFailureMode::Open,
        };
        GuardOptions {
            mode: mode.into(),
            failure_mode: failure_mode.into(),
            ..self.looks.options()
        }
    }
}

impl LookArgs {
    /// The options of a request, without modes.
    pub(super) fn options(&self) -> GuardOptions {
        GuardOptions {
            // 0 stands for the server's default.
            cadence: Some(GuardCadence {
                tokens: self.every.unwrap_or(0),
                sentence_end: self.no_sentence_end.then_some(false),
            }),
            interim_threshold: self.interim_threshold,
            confirmations: self.confirmations.unwrap_or(0),
            ..GuardOptions::default()
        }
    }
}

/// Checks that a look followed the policy that was asked for.
pub(super) fn check_look(policy: &PolicyChoice, look: &GuardLook) -> Result<(), ClientError> {
    look.verdict
        .as_ref()
        .map_or(Ok(()), |verdict| check_policy(policy, verdict))
}

/// One line on what is to be taken back.
pub(super) fn retracted(retracted: &GuardRetracted) -> String {
    format!(
        "[retracted: what was released behind byte {} of the text]",
        retracted.kept_bytes
    )
}

/// How a command ends with a text.
pub(super) fn exit(ended: GuardEnded) -> anyhow::Result<Exit> {
    match (ended.reason(), ended.error) {
        (Reason::Complete, _) => Ok(Exit::Done),
        (Reason::Policy, _) => Ok(Exit::Unsafe),
        (Reason::GuardFailed, _) => Ok(Exit::Undetermined),
        (_, Some(error)) => Err(ClientError::Rpc(RpcError::from_item(error)).into()),
        (_, None) => {
            let message = "the text ended for a reason that this client does not know";
            Err(ClientError::Protocol(message.to_owned()).into())
        }
    }
}

/// One line on how the text ended.
pub(super) fn summary(ended: &GuardEnded) -> String {
    let reason = ended.reason().as_str_name();
    let reason = reason.strip_prefix("REASON_").unwrap_or(reason);
    let mut parts = vec![
        reason.to_ascii_lowercase().replace('_', " "),
        format!(
            "{} of {} bytes released",
            ended.released_bytes, ended.received_bytes
        ),
        counted(ended.looks, "look", "looks"),
    ];
    if ended.unguarded {
        parts.push("UNGUARDED: the guard failed, and text was released all the same".to_owned());
    }
    if let (Reason::GuardFailed, Some(error)) = (ended.reason(), &ended.error) {
        parts.push(RpcError::from_item(error.clone()).to_string());
    }
    if let Some(verdict) = &ended.verdict {
        parts.push(classify::line(verdict, true));
    }
    if let Some(decision) = &ended.decision {
        parts.push(shown(decision, true));
    }
    format!("[{}]", parts.join(", "))
}
