//! Flags of the command line that set keys.

use std::{path::PathBuf, str::FromStr};

use crate::{
    guard::GuardKind,
    model::spec::{DeviceChoice, PrecisionChoice},
};

/// `--model ID=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagModel {
    /// The model's id.
    pub id: String,
    /// Its file or folder.
    pub path: PathBuf,
}

impl FromStr for FlagModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((id, path)) if !id.is_empty() && !path.is_empty() => Ok(Self {
                id: id.to_owned(),
                path: PathBuf::from(path),
            }),
            _ => Err("write ID=PATH, such as smol=models/smol.gguf".to_owned()),
        }
    }
}

/// `--adapter ID=BASE:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagAdapter {
    /// What it is served as.
    pub id: String,
    /// The id of its base.
    pub base: String,
    /// Its folder or file.
    pub path: PathBuf,
}

impl FromStr for FlagAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('=')
            .and_then(|(id, rest)| Some((id, rest.split_once(':')?)));
        match parts {
            Some((id, (base, path))) if ![id, base, path].contains(&"") => Ok(Self {
                id: id.to_owned(),
                base: base.to_owned(),
                path: PathBuf::from(path),
            }),
            _ => Err("write ID=BASE:PATH, such as polite=smol:adapters/polite".to_owned()),
        }
    }
}

/// `--precision ID=PRECISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagPrecision {
    /// The id of a model; all that have none of their own when absent.
    pub id: Option<String>,
    /// As it was written.
    pub precision: String,
}

impl FromStr for FlagPrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, precision) = match text.rsplit_once('=') {
            Some((id, precision)) => (Some(id.to_owned()), precision),
            None => (None, text),
        };
        PrecisionChoice::from_str(precision)?;
        Ok(Self {
            id,
            precision: precision.to_owned(),
        })
    }
}

/// `--guard-kind ID=KIND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagGuardKind {
    /// The id of a guard; all that `--guard` names when absent.
    pub id: Option<String>,
    /// The kind.
    pub kind: GuardKind,
}

impl FromStr for FlagGuardKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, kind) = match text.rsplit_once('=') {
            Some((id, kind)) => (Some(id.to_owned()), kind),
            None => (None, text),
        };
        Ok(Self {
            id,
            kind: kind.parse()?,
        })
    }
}

/// `--device ID=DEVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagDevice {
    /// The id of a model; all that have none of their own when absent.
    pub id: Option<String>,
    /// The device.
    pub device: DeviceChoice,
}

impl FromStr for FlagDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, device) = match text.rsplit_once('=') {
            Some((id, device)) => (Some(id.to_owned()), device),
            None => (None, text),
        };
        Ok(Self {
            id,
            device: device.parse()?,
        })
    }
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct FlagOverrides {
    /// Flag, key and value.
    pub values: Vec<(&'static str, &'static str, String)>,
    /// `--model`: targets; the first is the default target.
    pub models: Vec<FlagModel>,
    /// `--adapter`: targets too, but never the default.
    pub adapters: Vec<FlagAdapter>,
    /// `--guard`: `ID=PATH`, a path, or the id of a configured model; the first is the default guard.
    pub guards: Vec<String>,
    /// `--guard-kind`: of all models that `--guard` names, or of one model.
    pub guard_kinds: Vec<FlagGuardKind>,
    /// `--precision`: of all models, or of one.
    pub precisions: Vec<FlagPrecision>,
    /// `--device`: of all models, or of one.
    pub devices: Vec<FlagDevice>,
}
