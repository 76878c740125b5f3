//! Finds CUDA's libraries: those of a container or a toolkit, or of pip packages.
//!
//! The driver's is found by its name alone, for it belongs to the driver. The others may lie in folders that the system's
//! loader does not know: they are opened by their paths, and found by their names from then on.

use std::{
    env,
    ffi::c_int,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cudarc::{cublaslt, driver, nvrtc};
use libloading::os::unix::{Library as OpenLibrary, RTLD_GLOBAL, RTLD_NOW};

/// The major version of CUDA whose libraries are used.
const MAJOR: i32 = 13;

/// A library of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// The driver's own library.
    Driver,
    /// Compiles the kernels.
    Nvrtc,
    /// The parts of NVRTC that it loads by itself.
    NvrtcBuiltins,
    /// Products.
    CublasLt,
}

impl Library {
    /// All of them. NVRTC comes before its parts, for its version is in their name.
    pub const ALL: [Self; 4] = [Self::Driver, Self::Nvrtc, Self::NvrtcBuiltins, Self::CublasLt];

    /// The beginning of its file's name, up to which it identifies the library and its version.
    pub fn file(self) -> &'static str {
        match self {
            Self::Driver => "libcuda.so.1",
            Self::NvrtcBuiltins => "libnvrtc-builtins.so.13",
            Self::Nvrtc => "libnvrtc.so.13",
            Self::CublasLt => "libcublasLt.so.13",
        }
    }

    /// How to get it.
    pub fn how_to_get(self) -> &'static str {
        match self {
            Self::Driver => {
                "install NVIDIA's driver, version 580 or newer; in a container, start it with the NVIDIA container toolkit"
            }
            Self::NvrtcBuiltins | Self::Nvrtc => {
                "pip install 'nvidia-cuda-nvrtc==13.*', or install a CUDA 13 toolkit"
            }
            Self::CublasLt => "pip install 'nvidia-cublas==13.*', or install a CUDA 13 toolkit",
        }
    }
}

/// Why cards cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryProblem {
    /// A library was not found.
    #[error("{} was not found", .0.file())]
    Missing(Library),
    /// The driver is too old for CUDA 13.
    #[error(
        "the NVIDIA driver supports CUDA {}.{}, and CUDA {MAJOR} is needed",
        .version / 1000, .version % 1000 / 10
    )]
    OldDriver {
        /// The version of CUDA that it supports, as 1000 times the major version and 10 times the minor one.
        version: i32,
    },
    /// The driver has no card, or this process may not see any.
    #[error("the NVIDIA driver has no card for this process")]
    NoCard,
    /// The driver does not start.
    #[error("the NVIDIA driver does not start: {0}")]
    Start(String),
    /// A library of another version of CUDA was found first.
    #[error("the first {} that was found is of CUDA {found}, and CUDA {MAJOR} is needed", .library.file())]
    OtherVersion {
        /// The library.
        library: Library,
        /// The major version that was found.
        found: i32,
    },
}

impl LibraryProblem {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Missing(library) => library.how_to_get(),
            Self::OldDriver { .. } => "install NVIDIA's driver, version 580 or newer",
            Self::NoCard => {
                "see that `nvidia-smi` lists a card, and that CUDA_VISIBLE_DEVICES does not hide it; start a container with --gpus"
            }
            Self::Start(_) => {
                "see whether `nvidia-smi` works; restart the machine after the driver was updated"
            }
            Self::OtherVersion { .. } => "remove the other version from LD_LIBRARY_PATH",
        }
    }
}

/// Where a library was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryFinding {
    /// The library.
    pub library: Library,
    /// Its file, or its name alone where the system's loader found it; `None` when it was not found.
    pub found: Option<PathBuf>,
}

/// Where each library is. Those that are found stay loaded.
pub fn findings() -> &'static [LibraryFinding] {
    static FINDINGS: OnceLock<Vec<LibraryFinding>> = OnceLock::new();
    FINDINGS.get_or_init(|| {
        let folders = folders();
        let mut builtins = None;
        let find = |library: Library| {
            let name = match library {
                Library::NvrtcBuiltins => builtins.take(),
                Library::Driver | Library::Nvrtc | Library::CublasLt => Some(library.file().to_owned()),
            };
            let opened = open(library, name.as_deref(), &folders);
            if let (Library::Nvrtc, Some((_, nvrtc))) = (library, &opened) {
                builtins = builtins_of(nvrtc);
            }
            LibraryFinding {
                library,
                // Libraries stay loaded as long as the process lives.
                found: opened.map(|(path, opened)| {
                    std::mem::forget(opened);
                    path
                }),
            }
        };
        Library::ALL.into_iter().map(find).collect()
    })
}

/// The name by which this NVRTC opens its parts, which has its whole version: `libnvrtc-builtins.so.13.0`.
fn builtins_of(nvrtc: &OpenLibrary) -> Option<String> {
    type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: the function has had this type in every version of NVRTC.
    let version = unsafe { nvrtc.get::<Version>(b"nvrtcVersion\0") }.ok()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the numbers are there to be written.
    let asked = unsafe { version(&mut major, &mut minor) };
    (asked == 0).then(|| format!("libnvrtc-builtins.so.{major}.{minor}"))
}

/// Loads all libraries and starts the driver.
///
/// # Errors
/// When a library is missing or has another version, or the driver does not start.
pub fn load() -> Result<(), LibraryProblem> {
    static LOADED: OnceLock<Result<(), LibraryProblem>> = OnceLock::new();
    LOADED.get_or_init(load_once).clone()
}

fn load_once() -> Result<(), LibraryProblem> {
    let findings = findings();
    let is_found = |library: Library| {
        findings
            .iter()
            .any(|finding| finding.library == library && finding.found.is_some())
    };
    // SAFETY: asks for nothing but whether the libraries can be opened. Cudarc would panic where one cannot.
    let can_be_opened = |library: Library| unsafe {
        match library {
            Library::Driver => driver::sys::is_culib_present(),
            Library::NvrtcBuiltins => true,
            Library::Nvrtc => nvrtc::sys::is_culib_present(),
            Library::CublasLt => cublaslt::sys::is_culib_present(),
        }
    };
    let missing = Library::ALL
        .into_iter()
        .find(|library| !is_found(*library) || !can_be_opened(*library));
    if let Some(library) = missing {
        return Err(LibraryProblem::Missing(library));
    }
    let mut version = 0;
    // SAFETY: the driver's library is loaded, and the number is there to be written.
    let asked = unsafe { driver::sys::cuDriverGetVersion(&mut version) };
    let start = |error: driver::result::DriverError| match error.0 {
        driver::sys::CUresult::CUDA_ERROR_NO_DEVICE => LibraryProblem::NoCard,
        _ => LibraryProblem::Start(error.to_string()),
    };
    asked.result().map_err(start)?;
    if version < MAJOR * 1000 {
        return Err(LibraryProblem::OldDriver { version });
    }
    driver::result::init().map_err(start)?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is loaded, and the numbers are there to be written.
    unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    expect_version(Library::Nvrtc, major)?;
    // SAFETY: the library is loaded.
    let version = unsafe { cublaslt::sys::cublasLtGetVersion() };
    expect_version(Library::CublasLt, (version / 10_000) as i32)
}

fn expect_version(library: Library, found: i32) -> Result<(), LibraryProblem> {
    match found {
        MAJOR => Ok(()),
        found => Err(LibraryProblem::OtherVersion { library, found }),
    }
}

/// Opens a library by its name, as the system's loader finds it, or in one of the folders.
fn open(library: Library, name: Option<&str>, folders: &[PathBuf]) -> Option<(PathBuf, OpenLibrary)> {
    let by_name = name.map(PathBuf::from);
    let in_folders = folders
        .iter()
        .flat_map(|folder| files_of(name.unwrap_or(library.file()), folder));
    by_name.into_iter().chain(in_folders).find_map(|path| {
        // SAFETY: CUDA's libraries can be loaded at any time; they are never unloaded.
        let opened = unsafe { OpenLibrary::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        opened.ok().map(|opened| (path, opened))
    })
}

/// A library's files in a folder. Versions may have more numbers than the name, such as `.so.13.0`.
fn files_of(name: &str, folder: &Path) -> Vec<PathBuf> {
    let is_version = |file: &str| {
        let rest = file.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| is_version(&entry.file_name().to_string_lossy()));
    let mut files: Vec<_> = named.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Folders that may have libraries, the likeliest first.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = env::var_os(variable) {
            toolkit(Path::new(&home), &mut folders);
        }
    }
    if let Some(folder) = env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(folder.join("lib"));
        python(&folder.join(".."), &mut folders);
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(root) = env::var_os(variable) {
            python(Path::new(&root), &mut folders);
        }
    }
    if let Some(home) = env::home_dir() {
        python(&home.join(".local"), &mut folders);
    }
    for root in ["/usr/local", "/usr"] {
        python(Path::new(root), &mut folders);
    }
    for root in ["/usr/local/cuda", "/usr/local/cuda-13", "/opt/cuda"] {
        toolkit(Path::new(root), &mut folders);
    }
    folders
}

fn toolkit(home: &Path, folders: &mut Vec<PathBuf>) {
    folders.extend(["lib64", "lib"].map(|name| home.join(name)));
}

/// The folders of pip's packages below the root of a Python.
fn python(root: &Path, folders: &mut Vec<PathBuf>) {
    let versions = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let is_python = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("python3");
    for version in versions.filter(|entry| is_python(&entry.file_name())) {
        for packages in ["site-packages", "dist-packages"] {
            let nvidia = version.path().join(packages).join("nvidia");
            folders.extend(["cu13/lib", "cuda_nvrtc/lib", "cublas/lib"].map(|name| nvidia.join(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_pip_packages_are_found_and_others_versions_are_not() {
        let root = tempfile::tempdir().unwrap();
        let lib = root.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
        fs::create_dir_all(&lib).unwrap();
        for name in [
            "libnvrtc.so.13",
            "libnvrtc.so.12",
            "libnvrtc-builtins.so.13.0",
            "libcublasLt.so.13",
        ] {
            fs::write(lib.join(name), "").unwrap();
        }
        let mut folders = Vec::new();
        python(root.path(), &mut folders);
        assert!(folders.contains(&lib));
        let found = |library: Library| files_of(library.file(), &lib);
        assert_eq!(found(Library::Nvrtc), [lib.join("libnvrtc.so.13")]);
        assert_eq!(
            found(Library::NvrtcBuiltins),
            [lib.join("libnvrtc-builtins.so.13.0")]
        );
        // Parts of another version are not this one's.
        assert!(files_of("libnvrtc-builtins.so.13.1", &lib).is_empty());
        fs::write(lib.join("libnvrtc-builtins.so.13.10"), "").unwrap();
        assert!(files_of("libnvrtc-builtins.so.13.1", &lib).is_empty());
        // A file that is no library is not taken for one.
        assert!(open(Library::NvrtcBuiltins, None, &[lib]).is_none());
    }

    #[test]
    fn problems_say_what_and_how_to_mend_it() {
        let missing = LibraryProblem::Missing(Library::CublasLt);
        assert!(missing.to_string().contains("libcublasLt.so.13") && missing.fix().contains("pip install"));
        let old = LibraryProblem::OldDriver { version: 12_040 };
        assert!(old.to_string().contains("CUDA 12.4") && old.fix().contains("580"));
    }

    /// On a machine without a driver nothing panics, and it is said what is missing.
    #[test]
    fn loading_without_a_driver_is_a_problem_and_no_panic() {
        let driver = findings()
            .iter()
            .find(|finding| finding.library == Library::Driver);
        if driver.is_some_and(|driver| driver.found.is_none()) {
            assert_eq!(load(), Err(LibraryProblem::Missing(Library::Driver)));
        }
    }
}
