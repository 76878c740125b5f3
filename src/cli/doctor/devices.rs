//! Checks the devices: what was found of cards, those that the configuration asks for, and the self-tests of those that are
//! named on the command line.

use std::collections::BTreeSet;

use super::check::{Check, Outcome};
use crate::{
    backend::{Backend, DeviceFinding, FindingStatus},
    cli::{device_error::DeviceError, devices::Machine},
    memory::human_bytes,
    model::spec::DeviceName,
};

/// What was found of cards and of what they need.
pub(super) fn found(machine: &dyn Machine) -> Vec<Check> {
    // Nothing here stops a server: a device that cannot be used stops it only where it is named.
    let findings = machine.findings().into_iter();
    findings.map(|finding| check_of(finding, Outcome::Warn)).collect()
}

/// A device that cannot be opened.
pub(super) fn refused(error: &DeviceError) -> Check {
    let found = error.problem.to_string();
    Check::new(&name_of(error.device), found, Outcome::Fail(error.fix.clone()))
}

/// Opens each device and runs its self-test.
pub(super) fn self_tests(devices: &BTreeSet<DeviceName>, machine: &dyn Machine) -> Vec<Check> {
    let mut checks = Vec::new();
    for device in devices {
        match machine.open(*device) {
            Err(error) => checks.push(refused(&error)),
            Ok(backend) => {
                checks.push(opened(backend.as_ref()));
                let tested = backend.self_test().into_iter().map(|finding| DeviceFinding {
                    subject: format!("self-test of {device}: {}", finding.subject),
                    ..finding
                });
                checks.extend(tested.map(|finding| check_of(finding, Outcome::Fail)));
            }
        }
    }
    checks
}

/// A device that can be used.
fn opened(backend: &dyn Backend) -> Check {
    let device = backend.device();
    let memory = match backend.memory() {
        None => "models are in the host's memory".to_owned(),
        Some(memory) => format!(
            "{} of its {} are free",
            human_bytes(memory.free),
            human_bytes(memory.total)
        ),
    };
    let found = format!("computes with {}; {memory}", device.architecture);
    Check::new(&name_of(device.name), found, Outcome::Ok)
}

fn name_of(device: DeviceName) -> String {
    format!("device {device}")
}

/// `unusable` is how a check goes that found something which cannot be used.
fn check_of(finding: DeviceFinding, unusable: fn(String) -> Outcome) -> Check {
    let outcome = match finding.status {
        FindingStatus::Ok => Outcome::Ok,
        FindingStatus::Missing { fix } => Outcome::Warn(fix),
        FindingStatus::Unusable { fix } => unusable(fix),
    };
    Check::new(&finding.subject, finding.found, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::devices::{ThisMachine, scripted::ScriptedMachine};

    #[test]
    fn a_card_that_fails_has_its_fix_and_one_that_works_its_memory() {
        let devices = [DeviceName::Cuda(0), DeviceName::Cuda(1)].into_iter().collect();
        let checks = self_tests(&devices, &ScriptedMachine(vec![1 << 30, 0]));
        let shown: Vec<_> = checks
            .iter()
            .map(|check| (check.name.as_str(), check.found.as_str()))
            .collect();
        assert_eq!(shown[0].0, "device cuda:0");
        assert!(
            shown[0].1.ends_with("; 1.0 GiB of its 2.0 GiB are free"),
            "{shown:?}"
        );
        assert_eq!(
            shown[1],
            ("device cuda:1", "it cannot be used (the driver is too old)")
        );
        assert_eq!(checks[1].outcome, Outcome::Fail("mend it".to_owned()));
    }

    #[test]
    fn the_processor_is_tested_in_every_precision() {
        let checks = self_tests(
            &[DeviceName::Cpu].into_iter().collect(),
            &ThisMachine { threads: 1 },
        );
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        let test = |precision| format!("self-test of cpu: a made-up model in {precision}");
        let golden = |precision| format!("self-test of cpu: golden checkpoints in {precision}");
        assert_eq!(
            names,
            [
                "device cpu".to_owned(),
                test("mixed"),
                test("int8"),
                golden("bf16"),
                test("bf16"),
                golden("f32"),
                test("f32")
            ]
        );
        assert!(
            checks.iter().all(|check| check.outcome == Outcome::Ok),
            "{checks:?}"
        );
    }

    #[test]
    fn what_cannot_be_used_stops_only_what_names_it() {
        let finding = || DeviceFinding {
            subject: "NVIDIA driver".to_owned(),
            found: "too old".to_owned(),
            status: FindingStatus::Unusable {
                fix: "install a newer one".to_owned(),
            },
        };
        let fix = || "install a newer one".to_owned();
        assert_eq!(check_of(finding(), Outcome::Warn).outcome, Outcome::Warn(fix()));
        assert_eq!(check_of(finding(), Outcome::Fail).outcome, Outcome::Fail(fix()));
    }
}
