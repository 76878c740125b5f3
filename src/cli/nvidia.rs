//! The NVIDIA cards of this machine: the search for them, opening one, and the libraries that they need.

use std::{fs, path::Path, sync::Arc};

use super::device_error::{CardSearch, DeviceError, DeviceProblem, NAME_ANOTHER};
use crate::{
    backend::{
        Backend, DeviceFinding, FindingStatus,
        cuda::{
            CudaBackend,
            driver::nvidia::{self, Library, LibraryFinding, LibraryProblem, NvidiaCard},
        },
    },
    model::spec::DeviceName,
};

/// Where the driver puts a file for each card.
const DEVICE_FILES: &str = "/dev";

/// What to do about a driver that reports errors.
const DRIVER_FAILS: &str = "see whether `nvidia-smi` works, and look for messages of the driver with `dmesg`";

/// Looks for cards. Nothing is opened.
pub(super) fn cards() -> CardSearch {
    let unusable = |reason: String, fix: &str| CardSearch::Unusable {
        reason,
        fix: fix.to_owned(),
    };
    match nvidia::load() {
        Ok(()) => match nvidia::card_count() {
            Ok(0) => CardSearch::None(LibraryProblem::NoCard.to_string()),
            Ok(count) => CardSearch::Found((0..count).collect()),
            Err(error) => unusable(error.to_string(), DRIVER_FAILS),
        },
        Err(LibraryProblem::Missing(Library::Driver)) if device_files(Path::new(DEVICE_FILES)) == 0 => {
            CardSearch::None(format!("there is no {DEVICE_FILES}/nvidia0"))
        }
        Err(problem @ LibraryProblem::NoCard) => CardSearch::None(problem.to_string()),
        Err(problem) => unusable(problem.to_string(), problem.fix()),
    }
}

/// Opens a card.
///
/// # Errors
/// When it cannot be used.
pub(super) fn open(number: u32) -> Result<Arc<dyn Backend>, DeviceError> {
    let refused = |problem, fix: &str| DeviceError {
        device: DeviceName::Cuda(number),
        problem,
        fix: fix.to_owned(),
    };
    match cards() {
        CardSearch::None(looked_for) => Err(refused(DeviceProblem::Absent(looked_for), NAME_ANOTHER)),
        CardSearch::Unusable { reason, fix } => Err(refused(DeviceProblem::Unusable(reason), &fix)),
        CardSearch::Found(numbers) if !numbers.contains(&number) => {
            let found = format!("the driver has {} cards, counted from 0", numbers.len());
            Err(refused(DeviceProblem::Absent(found), NAME_ANOTHER))
        }
        CardSearch::Found(_) => {
            let card = NvidiaCard::open(number)
                .map_err(|error| refused(DeviceProblem::Unusable(error.to_string()), DRIVER_FAILS))?;
            let backend = CudaBackend::new(number, Arc::new(card))
                .map_err(|error| refused(DeviceProblem::Unusable(error.to_string()), NAME_ANOTHER))?;
            Ok(Arc::new(backend))
        }
    }
}

/// Where each library of CUDA is, or how to get it.
pub(super) fn libraries() -> Vec<DeviceFinding> {
    nvidia::findings().iter().map(library_finding).collect()
}

fn library_finding(finding: &LibraryFinding) -> DeviceFinding {
    let (found, status) = match &finding.found {
        Some(path) => (path.display().to_string(), FindingStatus::Ok),
        None => {
            let fix = finding.library.how_to_get().to_owned();
            ("not found".to_owned(), FindingStatus::Missing { fix })
        }
    };
    DeviceFinding {
        subject: finding.library.file().to_owned(),
        found,
        status,
    }
}

/// The number of cards that the driver has made files for in this folder: `nvidia0`, `nvidia1` and so on.
fn device_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let cards = names.filter(|name| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    cards.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_files_are_counted_without_its_control_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia", "null"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(device_files(folder.path()), 2);
        assert_eq!(device_files(&folder.path().join("absent")), 0);
    }
}
