//! Begins runs: the folder that a run is written to, what is checked on the server before, and several runs at once.

use std::path::Path;

use tonic::Code;

use super::{error::RunError, state::Run};
use crate::{
    bench::{
        dataset::Dataset,
        plan::Plan,
        results::{FolderError, GroupRun, RunFolder, RunGroup, folder_names},
        settings::{DatasetInfo, RunSettings},
    },
    client::{Client, ClientError, PolicyChoice},
};

/// An empty folder for a new run. It is removed again when it is dropped and nothing was written into it.
pub struct NewRunFolder {
    folder: RunFolder,
}

impl NewRunFolder {
    /// Makes the folder `out`, or the first of `runs/<name>-1`, `runs/<name>-2`, … that does not exist. It is made before the
    /// run, so that nobody waits for results that then cannot be written.
    ///
    /// # Errors
    /// [`FolderError::NotEmpty`], [`FolderError::Io`].
    pub fn create(out: Option<&Path>, name: &str) -> Result<Self, FolderError> {
        if let Some(path) = out {
            return Ok(Self {
                folder: RunFolder::create(path)?,
            });
        }
        let mut number = 1u64;
        loop {
            let path = Path::new("runs").join(format!("{name}-{number}"));
            if !path.exists() {
                return Ok(Self {
                    folder: RunFolder::create(&path)?,
                });
            }
            number += 1;
        }
    }

    /// Where the run's results are written.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }
}

impl Drop for NewRunFolder {
    fn drop(&mut self) {
        self.folder.remove_if_empty();
    }
}

/// Checks that the server has the models, by their ids, and the policy, if it is one that the server is to have. So a run
/// that could never be completed does not begin.
///
/// # Errors
/// [`RunError::Client`], [`RunError::NoSuchPolicy`].
pub async fn check_served(
    client: &Client,
    models: impl IntoIterator<Item = &String>,
    policy: &PolicyChoice,
) -> Result<(), RunError> {
    for model in models.into_iter().filter(|model| !model.is_empty()) {
        match client.get_model(model).await {
            // A server without ModelService reports an unknown model when it is asked for the first item.
            Err(ClientError::Rpc(error)) if error.code == Code::Unimplemented => {}
            found => drop(found?),
        }
    }
    let PolicyChoice::Named(name) = policy else {
        return Ok(());
    };
    let served = client.policies().await?.into_iter();
    let served: Vec<_> = served.filter_map(|served| Some(served.policy?.name)).collect();
    if served.contains(name) {
        return Ok(());
    }
    Err(RunError::NoSuchPolicy {
        name: name.clone(),
        served,
    })
}

/// A run that is begun together with others, in a folder of its own.
pub struct NewMember<'a> {
    /// What its folder is called after.
    pub name: String,
    /// Who translated its prompts, where the runs differ in that.
    pub translator: Option<String>,
    /// Its prompts.
    pub dataset: &'a Dataset,
    /// Which model is asked, how, and which guards judge it.
    pub settings: RunSettings,
}

/// Begins several runs in folders below `folder`. All of them begin before the first of them asks anything, so that either
/// all can be resumed or none has asked anything.
///
/// # Errors
/// [`RunError`] of the first run that cannot begin.
pub fn begin_group(folder: &RunFolder, members: Vec<NewMember<'_>>) -> Result<RunGroup, RunError> {
    let names = folder_names(members.iter().map(|member| member.name.as_str()));
    let mut group = Vec::new();
    for (member, name) in members.into_iter().zip(names) {
        let target = member.settings.target.clone();
        let own = RunFolder::create(&folder.file(&name))?;
        Run::begin(own.clone(), member.dataset, member.settings).inspect_err(|_| own.remove_if_empty())?;
        group.push(GroupRun {
            target,
            translator: member.translator,
            folder: name,
        });
    }
    let group = RunGroup::new(group);
    group.write(folder)?;
    Ok(group)
}

impl Run {
    /// Begins a run over a prompt set in an empty folder.
    ///
    /// # Errors
    /// [`RunError`]; [`RunError::Plan`] and [`RunError::EmptyShard`] when the settings leave nothing to ask.
    pub fn begin(folder: RunFolder, dataset: &Dataset, settings: RunSettings) -> Result<Self, RunError> {
        let plan = Plan::new(dataset, &settings.selection)?;
        if let Some(shard) = settings.shard.filter(|shard| shard.index as usize > plan.rows) {
            return Err(RunError::EmptyShard {
                shard,
                rows: plan.rows,
            });
        }
        Self::create(folder, &plan, settings, DatasetInfo::from(dataset))
    }
}
