//! The devices of this machine that this program can use: opening them by name, the search for cards, and what is missing for
//! those that cannot be used.

use std::sync::Arc;

use super::{
    device_error::{CardSearch, DeviceError, DeviceProblem},
    nvidia,
};
use crate::{
    backend::{Backend, DeviceFinding, FindingStatus, cpu::CpuBackend},
    model::spec::{DeviceChoice, DeviceName},
    registry::{PassReason, PassedOver},
};

#[cfg(not(feature = "candle"))]
use crate::model::spec::CandleDevice;
#[cfg(feature = "candle")]
use {
    super::device_error::NAME_ANOTHER,
    crate::backend::candle::{CandleBackend, OpenError},
};

/// A machine with devices: this one, or a scripted one in tests.
pub(super) trait Machine {
    /// Looks for NVIDIA cards. Nothing is opened.
    fn cards(&self) -> CardSearch;

    /// Opens a device.
    fn open(&self, device: DeviceName) -> Result<Arc<dyn Backend>, DeviceError>;

    /// What was found of cards and of what they need: a driver, libraries.
    fn findings(&self) -> Vec<DeviceFinding>;
}

/// The devices of a configuration.
pub(super) struct OpenDevices {
    pub(super) backends: Vec<Arc<dyn Backend>>,
    /// Devices that an automatic choice would prefer, and why they cannot be used.
    pub(super) unusable: Vec<PassedOver>,
    /// What the search for cards found; `None` where no choice is automatic.
    pub(super) search: Option<CardSearch>,
}

/// Opens each device that these choices name, and all cards and the processor if one of them is automatic.
///
/// # Errors
/// When a device that is named cannot be used. Cards that an automatic choice would only prefer are left out with the reason.
pub(super) fn open(choices: &[DeviceChoice], machine: &dyn Machine) -> Result<OpenDevices, DeviceError> {
    let mut opened = OpenDevices {
        backends: Vec::new(),
        unusable: Vec::new(),
        search: None,
    };
    for choice in choices {
        if let DeviceChoice::Only(device) = choice
            && !opened.has(*device)
        {
            opened.backends.push(machine.open(*device)?);
        }
    }
    if !choices.contains(&DeviceChoice::Auto) {
        return Ok(opened);
    }
    let search = machine.cards();
    match &search {
        CardSearch::None(_) => {}
        CardSearch::Unusable { reason, .. } => opened.pass_over(DeviceName::Cuda(0), reason.clone()),
        CardSearch::Found(numbers) => {
            for device in numbers.iter().map(|number| DeviceName::Cuda(*number)) {
                if opened.has(device) {
                    continue;
                }
                match machine.open(device) {
                    Ok(backend) => opened.backends.push(backend),
                    Err(error) => opened.pass_over(device, error.problem.reason()),
                }
            }
        }
    }
    opened.search = Some(search);
    if !opened.has(DeviceName::Cpu) {
        opened.backends.push(machine.open(DeviceName::Cpu)?);
    }
    Ok(opened)
}

impl OpenDevices {
    fn has(&self, device: DeviceName) -> bool {
        self.backends
            .iter()
            .any(|backend| backend.device().name == device)
    }

    fn pass_over(&mut self, device: DeviceName, reason: String) {
        self.unusable.push(PassedOver {
            device,
            reason: PassReason::Unusable(reason),
        });
    }
}

/// The machine that this process runs on.
pub(super) struct ThisMachine {
    /// Compute threads of the processor's models.
    pub(super) threads: usize,
}

impl Machine for ThisMachine {
    fn cards(&self) -> CardSearch {
        nvidia::cards()
    }

    fn open(&self, device: DeviceName) -> Result<Arc<dyn Backend>, DeviceError> {
        let refused = |problem, fix: &str| DeviceError {
            device,
            problem,
            fix: fix.to_owned(),
        };
        match device {
            DeviceName::Cpu => Ok(Arc::new(CpuBackend::new(self.threads))),
            DeviceName::Cuda(number) => nvidia::open(number),
            #[cfg(feature = "candle")]
            DeviceName::Candle(candle) => match CandleBackend::new(candle) {
                Ok(backend) => Ok(Arc::new(backend)),
                Err(error @ OpenError::NotBuilt { .. }) => {
                    Err(refused(DeviceProblem::NotBuilt, &error.to_string()))
                }
                Err(OpenError::Refused { reason, .. }) => {
                    Err(refused(DeviceProblem::Unusable(reason), NAME_ANOTHER))
                }
            },
            #[cfg(not(feature = "candle"))]
            DeviceName::Candle(candle) => Err(refused(
                DeviceProblem::NotBuilt,
                match candle {
                    CandleDevice::Cpu => "build it with --features candle",
                    CandleDevice::Metal => "build it with --features metal, on a computer of Apple",
                    CandleDevice::Cuda(_) => {
                        "build it with --no-default-features --features candle-cuda, which needs the CUDA toolkit"
                    }
                },
            )),
        }
    }

    fn findings(&self) -> Vec<DeviceFinding> {
        let (found, status) = match self.cards() {
            CardSearch::None(looked_for) => {
                let found = format!("none ({looked_for}); models are computed on the processor");
                return vec![cards_finding(found, FindingStatus::Ok)];
            }
            CardSearch::Unusable { reason, fix } => (reason, FindingStatus::Unusable { fix }),
            CardSearch::Found(numbers) => (format!("{} found", numbers.len()), FindingStatus::Ok),
        };
        let mut findings = nvidia::libraries();
        findings.push(cards_finding(found, status));
        findings
    }
}

fn cards_finding(found: String, status: FindingStatus) -> DeviceFinding {
    DeviceFinding {
        subject: "NVIDIA cards".to_owned(),
        found,
        status,
    }
}

/// A scripted machine, for tests.
#[cfg(test)]
pub(super) mod scripted {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{
        backend::{DeviceInfo, DeviceMemory, Footprint, LoadOptions, LoadedModel},
        model::{LoadError, spec::Precision},
    };

    /// A card that computes as the processor does, with memory of its own.
    pub(in crate::cli) struct ScriptedCard {
        info: DeviceInfo,
        memory: DeviceMemory,
    }

    impl Backend for ScriptedCard {
        fn device(&self) -> &DeviceInfo {
            &self.info
        }

        fn memory(&self) -> Option<DeviceMemory> {
            Some(self.memory)
        }

        fn self_test(&self) -> Vec<DeviceFinding> {
            Vec::new()
        }

        fn effective_precision(&self, path: &Path, requested: Precision) -> Precision {
            CpuBackend::new(1).effective_precision(path, requested)
        }

        fn footprint(
            &self,
            path: &Path,
            adapters: &[PathBuf],
            options: &LoadOptions,
        ) -> Result<Footprint, LoadError> {
            CpuBackend::new(1).footprint(path, adapters, options)
        }

        fn load(
            &self,
            path: &Path,
            adapters: &[PathBuf],
            options: &LoadOptions,
        ) -> Result<LoadedModel, LoadError> {
            CpuBackend::new(1).load(path, adapters, options)
        }
    }

    /// A machine with cards of this much free memory; those with none cannot be opened.
    pub(in crate::cli) struct ScriptedMachine(pub(in crate::cli) Vec<u64>);

    impl Machine for ScriptedMachine {
        fn cards(&self) -> CardSearch {
            match self.0.len() {
                0 => CardSearch::None("nothing was looked for".to_owned()),
                _ => CardSearch::Found((0..).zip(&self.0).map(|(number, _)| number).collect()),
            }
        }

        fn open(&self, device: DeviceName) -> Result<Arc<dyn Backend>, DeviceError> {
            let error = |problem| DeviceError {
                device,
                problem,
                fix: "mend it".to_owned(),
            };
            let mut info = CpuBackend::new(1).device().clone();
            info.name = device;
            match device {
                DeviceName::Cpu => Ok(Arc::new(CpuBackend::new(1))),
                DeviceName::Cuda(number) => match self.0.get(number as usize) {
                    None => Err(error(DeviceProblem::Absent("there are fewer".to_owned()))),
                    Some(0) => Err(error(DeviceProblem::Unusable("the driver is too old".to_owned()))),
                    Some(free) => Ok(Arc::new(ScriptedCard {
                        info,
                        memory: DeviceMemory {
                            total: 2 * free,
                            free: *free,
                        },
                    })),
                },
                DeviceName::Candle(_) => Err(error(DeviceProblem::NotBuilt)),
            }
        }

        fn findings(&self) -> Vec<DeviceFinding> {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{scripted::ScriptedMachine, *};

    const CUDA_0: DeviceChoice = DeviceChoice::Only(DeviceName::Cuda(0));
    const CPU: DeviceChoice = DeviceChoice::Only(DeviceName::Cpu);

    fn names(opened: &OpenDevices) -> Vec<DeviceName> {
        opened
            .backends
            .iter()
            .map(|backend| backend.device().name)
            .collect()
    }

    #[test]
    fn only_what_is_named_is_opened_and_once() {
        let machine = ScriptedMachine(vec![10, 10]);
        let opened = open(&[CPU, CUDA_0, CPU], &machine).unwrap();
        assert_eq!(names(&opened), [DeviceName::Cpu, DeviceName::Cuda(0)]);
        assert_eq!(opened.search, None);
    }

    #[test]
    fn auto_opens_all_cards_and_the_processor_and_says_which_cards_failed() {
        let machine = ScriptedMachine(vec![10, 0, 10]);
        let opened = open(&[DeviceChoice::Auto, CUDA_0], &machine).unwrap();
        let cuda = DeviceName::Cuda;
        assert_eq!(names(&opened), [cuda(0), cuda(2), DeviceName::Cpu]);
        assert_eq!(opened.search, Some(CardSearch::Found(vec![0, 1, 2])));
        let unusable: Vec<String> = opened.unusable.iter().map(PassedOver::to_string).collect();
        assert_eq!(unusable, ["cuda:1 cannot be used: the driver is too old"]);
    }

    #[test]
    fn a_named_device_that_is_not_there_is_an_error_with_the_fix() {
        let machine = ThisMachine { threads: 1 };
        let refused = |device: &str| open(&[device.parse().unwrap()], &machine).err().unwrap();
        assert_eq!(
            refused("candle:metal").to_string(),
            "device candle:metal: this program was built without it: build it with --features metal, on a computer of \
             Apple"
        );
        assert_eq!(refused("cuda:0").device, DeviceName::Cuda(0));
    }
}
