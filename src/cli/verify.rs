//! `verify`: whether a receipt agrees with itself and with the files that it names by digests. No model is needed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    CommandError, Exit, Format, Global,
    output::{print_json, print_line},
    receipt::ReceiptArgs,
};
use crate::{
    calibrator::{Calibrator, FittedFor, JudgedSide, read_calibrator},
    guard::{read_decision_policy, read_policy},
    receipt::{DecisionReceipt, Receipt, ReceiptBody},
    registry::weights_digest,
    rpc,
};

/// Check a verdict's receipt without a model: that it agrees with itself, and with the files that are given.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    receipt: ReceiptArgs,
    /// The guard's model file or folder, whose digest is compared
    #[arg(long, value_name = "PATH")]
    weights: Option<PathBuf>,
    /// File of the policy that the guard judged by
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    /// File of the decision policy: the decision is made again
    #[arg(long, value_name = "FILE")]
    decision_policy: Option<PathBuf>,
    /// File of the calibrator that the decision policy uses
    #[arg(long, value_name = "FILE", requires = "decision_policy")]
    calibrator: Option<PathBuf>,
}

/// What was checked, and what was not.
#[derive(Default)]
struct Findings {
    checked: Vec<&'static str>,
    /// Each with what is needed.
    unchecked: Vec<(&'static str, &'static str)>,
}

impl Findings {
    fn note(&mut self, what: &'static str, is_checked: bool, needs: &'static str) {
        match is_checked {
            true => self.checked.push(what),
            false => self.unchecked.push((what, needs)),
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let receipt = args.receipt.read()?;
    let body = receipt.body();
    let mut findings = Findings::default();
    findings.note("the receipt itself", true, "");
    let conversation = args.receipt.conversation(&receipt)?;
    findings.note("input", conversation.is_some(), "--input FILE");
    if let Some(path) = &args.weights {
        let digest = weights_digest(path)
            .map_err(|error| CommandError::invalid_data(format!("{}: {error}", path.display())))?;
        same("weights", path, &body.computed_by.model_digest, &digest)?;
    }
    findings.note("weights", args.weights.is_some(), "--weights PATH");
    if let Some(path) = &args.policy_file {
        let policy = read_policy(path).map_err(CommandError::invalid_data)?;
        same("policy", path, &body.computed_by.policy_digest, policy.digest())?;
    }
    if !body.computed_by.policy_digest.is_empty() {
        findings.note("policy", args.policy_file.is_some(), "--policy-file FILE");
    }
    match &body.decision {
        Some(decision) => {
            if let Some(path) = &args.decision_policy {
                decide_again(args, &receipt, decision, path)?;
            }
            findings.note(
                "decision",
                args.decision_policy.is_some(),
                "--decision-policy FILE",
            );
        }
        None if args.decision_policy.is_some() => {
            return Err(
                CommandError::usage("the receipt has no decision: leave --decision-policy out").into(),
            );
        }
        None => {}
    }
    findings.note("the verdict's computation", false, "`babelward replay`");
    match global.format {
        Format::Human => {
            let checked = findings.checked.iter().map(|what| format!("ok           {what}"));
            let unchecked = findings.unchecked.iter();
            let unchecked = unchecked.map(|(what, needs)| format!("not checked  {what}: needs {needs}"));
            print_line(&checked.chain(unchecked).collect::<Vec<_>>().join("\n"))?;
        }
        Format::Json | Format::Jsonl => {
            let unchecked = findings.unchecked.iter();
            let unchecked: Vec<Value> = unchecked
                .map(|(what, needs)| json!({"what": what, "needs": needs}))
                .collect();
            let found = json!({"checked": findings.checked, "not_checked": unchecked});
            print_json(global.format, &found)?;
        }
    }
    Ok(Exit::Done)
}

/// Refuses a file that is not the one that the receipt names.
fn same(what: &str, path: &Path, wanted: &str, has: &str) -> Result<(), CommandError> {
    if wanted == has {
        return Ok(());
    }
    Err(CommandError::invalid_data(format!(
        "{}: this is not the {what} of the receipt: its digest is {has}, that of the receipt is {wanted}",
        path.display()
    )))
}

/// Makes the decision again from the verdict's bits.
fn decide_again(
    args: &Args,
    receipt: &Receipt,
    decision: &DecisionReceipt,
    path: &Path,
) -> anyhow::Result<()> {
    let policy = read_decision_policy(path).map_err(CommandError::invalid_data)?;
    same("decision policy", path, &decision.policy_digest, policy.digest())?;
    let calibrator: Option<Calibrator> = match (&args.calibrator, policy.calibrator()) {
        (Some(path), Some(digest)) => {
            let calibrator = read_calibrator(path).map_err(CommandError::invalid_data)?;
            same("calibrator", path, digest, calibrator.digest())?;
            let differing = calibrator.fitted_for().differences(&fitted_for(receipt.body()));
            if let Some(first) = differing.first() {
                return Err(CommandError::invalid_data(format!(
                    "{}: the calibrator was fitted for another guard or side than the receipt names: {} was {}, is {}",
                    path.display(),
                    first.what,
                    first.fitted,
                    first.has
                ))
                .into());
            }
            Some(calibrator)
        }
        (None, Some(_)) => {
            return Err(CommandError::usage(
                "the decision policy uses a calibrator: give its file with --calibrator",
            )
            .into());
        }
        (Some(_), None) => {
            return Err(CommandError::usage(
                "the decision policy uses no calibrator: leave --calibrator out",
            )
            .into());
        }
        (None, None) => None,
    };
    let body = receipt.body();
    let language = Some(body.asked.language.as_str()).filter(|language| !language.is_empty());
    let again = rpc::decide(
        &policy,
        calibrator.as_ref(),
        rpc::DecidedAbout::verdict(&body.decided_verdict()),
        language,
    );
    let again = DecisionReceipt::of(&again);
    if !again.is_that_of(decision) {
        return Err(CommandError::invalid_data(format!(
            "the decision does not follow from the verdict: by {} it is {}, the receipt says {}",
            policy.full_name(),
            again.action,
            decision.action
        ))
        .into());
    }
    Ok(())
}

/// What the receipt's verdict was computed by, and of which side the judged message is: the last one that is not the system's.
fn fitted_for(body: &ReceiptBody) -> FittedFor {
    let computed_by = &body.computed_by;
    let judged = body.input.roles.iter().rfind(|role| *role != "system");
    FittedFor {
        judged: match judged.map(String::as_str) {
            Some("assistant") => JudgedSide::Answer,
            Some(_) | None => JudgedSide::Prompt,
        },
        model_digest: computed_by.model_digest.clone(),
        adapter_digest: computed_by.adapter_digest.clone(),
        tokenizer_digest: computed_by.tokenizer_digest.clone(),
        template_digest: computed_by.template_digest.clone(),
        policy_digest: computed_by.policy_digest.clone(),
        precision: computed_by.precision.clone(),
    }
}
