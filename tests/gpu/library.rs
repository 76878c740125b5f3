//! The shared library of emulated kernels: built once for each set of sources, and loaded.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use babelward::backend::cuda::driver::LaunchSize;
use libloading::Library;
use sha2::{Digest as _, Sha256};

use crate::common::repository;

/// Options of the C++ compiler. Products and sums may not be joined but where the sources say so.
const OPTIONS: [&str; 5] = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared"];

/// The loaded library.
pub struct Kernels {
    launch: unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, u32, *const c_void) -> c_int,
    error: unsafe extern "C" fn() -> *const c_char,
    layout: unsafe extern "C" fn() -> *const c_char,
    settings: unsafe extern "C" fn(u64, c_int),
    shared_bytes: unsafe extern "C" fn(u32) -> u32,
    product: unsafe extern "C" fn(*const u16, *const u16, *mut f32, u32, u32, u32, c_int),
    _library: Library,
}

/// The operands of [`Kernels::product`], as addresses of the host.
pub struct ProductArguments {
    pub weights: u64,
    pub x: u64,
    pub out: u64,
    pub outputs: usize,
    pub inputs: usize,
    pub rows: usize,
    pub add: bool,
}

/// The kernels of this repository.
pub static KERNELS: LazyLock<Kernels> = LazyLock::new(|| {
    let library = build();
    // SAFETY: the library is ours, and has the functions that its header declares.
    unsafe {
        let library = Library::new(&library).unwrap();
        Kernels {
            launch: *library.get(b"emulated_launch\0").unwrap(),
            error: *library.get(b"emulated_error\0").unwrap(),
            layout: *library.get(b"emulated_layout\0").unwrap(),
            settings: *library.get(b"emulated_settings\0").unwrap(),
            shared_bytes: *library.get(b"emulated_attention_shared_bytes\0").unwrap(),
            product: *library.get(b"emulated_product\0").unwrap(),
            _library: library,
        }
    }
});

impl Kernels {
    /// Runs a kernel. The error is the emulator's.
    ///
    /// # Safety
    /// The argument is the one that the kernel takes, and its addresses are sound.
    pub unsafe fn launch(&self, kernel: &str, size: LaunchSize, argument: &[u8]) -> Result<(), String> {
        let name = CString::new(kernel).unwrap();
        let [x, y, z] = size.grid;
        // Arguments have fields of 8 bytes, and must be aligned to them.
        let mut words = vec![0u64; argument.len().div_ceil(8)];
        // SAFETY: there is room for all bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(argument.as_ptr(), words.as_mut_ptr().cast(), argument.len())
        };
        // SAFETY: as the caller says.
        let outcome = unsafe {
            (self.launch)(
                name.as_ptr(),
                x,
                y,
                z,
                size.threads,
                size.shared_bytes,
                words.as_ptr().cast(),
            )
        };
        match outcome {
            0 => Ok(()),
            // SAFETY: the text lives until the thread's next launch.
            _ => Err(format!("{kernel}: {}", text(unsafe { (self.error)() }))),
        }
    }

    /// # Safety
    /// The addresses are of arrays of these sizes.
    pub unsafe fn product(&self, arguments: &ProductArguments) {
        // SAFETY: as the caller says.
        unsafe {
            (self.product)(
                arguments.weights as *const u16,
                arguments.x as *const u16,
                arguments.out as *mut f32,
                arguments.outputs as u32,
                arguments.inputs as u32,
                arguments.rows as u32,
                c_int::from(arguments.add),
            );
        }
    }

    /// The layouts of all structures, in JSON.
    pub fn layout(&self) -> String {
        // SAFETY: the text is a constant of the library.
        text(unsafe { (self.layout)() })
    }

    /// The order in which threads run, and whether asynchronous copies arrive at once. It holds for the whole process.
    pub fn set(&self, seed: u64, eager_copies: bool) {
        // SAFETY: the function takes any values.
        unsafe { (self.settings)(seed, c_int::from(eager_copies)) };
    }

    /// Bytes of shared memory that attention needs.
    pub fn attention_shared_bytes(&self, head: u32) -> u32 {
        // SAFETY: the function takes any value.
        unsafe { (self.shared_bytes)(head) }
    }
}

fn text(text: *const c_char) -> String {
    // SAFETY: the library's texts end with a zero.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

/// Builds the library, unless it was built before from the same sources.
fn build() -> PathBuf {
    let emulator = repository("tests/gpu/emulator");
    let kernels = repository("src/backend/cuda/kernels");
    let sources: Vec<PathBuf> = ["library", "attention", "product", "machine", "fiber"]
        .map(|name| emulator.join(name).with_extension("cpp"))
        .to_vec();
    let mut files: Vec<PathBuf> = [&emulator, &kernels]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let compiler = compiler();
    let mut hasher = Sha256::new();
    hasher.update(format!("{compiler:?} {OPTIONS:?}"));
    for file in &files {
        hasher.update(std::fs::read(file).unwrap());
    }
    let digest: String = hasher
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("libemulated-{digest}.so"));
    if library.exists() {
        return library;
    }
    let part = folder.join(format!("libemulated-{digest}.{}.part", std::process::id()));
    let mut command = Command::new(&compiler[0]);
    command
        .args(&compiler[1..])
        .args(OPTIONS)
        .arg("-I")
        .arg(&kernels)
        .arg("-I")
        .arg(&emulator)
        .args(&sources)
        .arg("-o")
        .arg(&part)
        .stdin(Stdio::null());
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    std::fs::rename(&part, &library).unwrap();
    library
}

/// A C++ compiler: the system's, or the one of a Python package where the system has none.
pub fn compiler() -> Vec<String> {
    let own = std::env::var("CXX").ok();
    let names = own.iter().map(String::as_str).chain(["c++", "g++", "clang++"]);
    for name in names {
        let asked = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        if asked.is_ok_and(|asked| asked.status.success()) {
            return vec![name.to_owned()];
        }
    }
    let folder = crate::common::repository("tests/clients/install.py");
    let done = Command::new("python3")
        .arg(folder)
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .arg(repository("tests/gpu/requirements.txt"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("python3 runs: without a C++ compiler these tests fetch one with pip");
    assert!(
        done.status.success(),
        "there is no C++ compiler, and pip's message is above"
    );
    let packages = String::from_utf8(done.stdout).unwrap();
    vec![
        "env".to_owned(),
        format!("PYTHONPATH={}", packages.trim()),
        "python3".to_owned(),
        "-m".to_owned(),
        "ziglang".to_owned(),
        "c++".to_owned(),
    ]
}
