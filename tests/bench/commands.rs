//! The binary as a client of a server in this process.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    rig::Rig,
    support::{Outcome, command, run},
};

/// Runs it in this folder, which is also its home.
pub fn babelward(rig: &Rig, folder: &Path, args: &[&str]) -> Outcome {
    let server = format!("http://{}", rig.address);
    let mut command = command(folder);
    command.env("BABELWARD_SERVER_URL", &server).args(args);
    tokio::task::block_in_place(|| run(&mut command))
}

pub fn json_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}
