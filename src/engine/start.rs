//! Starts an engine: checks its limits, builds an engine for each model, and spawns the thread.

use std::{io, sync::Arc};

use super::{
    config::{EngineConfig, check_model_limits},
    driver::{Driver, Turn},
    handle::{EngineHandle, EngineThread, Scheduling},
    inbox::{Inbox, QueueBounds},
    scheduler::{Budget, TimeLedger},
    stats,
    thread::{self, ModelTurns},
};
use crate::backend::LanguageModel;

/// Starts the engine's thread.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a limit of zero, in the configuration or of a model; otherwise the system's
/// error when it cannot start a thread.
pub fn start(
    config: EngineConfig,
    models: Vec<Box<dyn LanguageModel>>,
) -> io::Result<(EngineHandle, EngineThread)> {
    config.check()?;
    for model in &models {
        check_model_limits(model.limits())?;
    }
    stats::describe();
    let limits = models.iter().map(|model| model.limits().clone()).collect();
    let bounds = QueueBounds {
        items: config.queue_items,
        tokens: config.queue_tokens,
    };
    let inbox = Inbox::new(limits, bounds, &config.tenant_weights);
    let inbox = Arc::new(inbox.expecting_verdicts());
    let scheduling = Scheduling {
        budget: Budget::new(config.max_batch_sequences, config.max_batch_tokens),
        cost_prior: config.cost_prior,
        weights: config.tenant_weights,
    };
    let names = config
        .model_names
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat(None));
    let engines: Vec<_> = models
        .into_iter()
        .zip(names)
        .enumerate()
        .map(|(index, (model, name))| {
            let name = name.unwrap_or_else(|| index.to_string());
            scheduling.engine(&name, model)
        })
        .collect();
    let turns = ModelTurns::new(
        engines,
        TimeLedger::new(config.step_target),
        config.execution,
        config.clock.clone(),
    );
    let thread = match config.driver {
        Driver::Thread => {
            let (thread_inbox, name) = (Arc::clone(&inbox), config.name.clone());
            EngineThread::spawn(config.name, Arc::clone(&inbox), move || {
                thread::run(&name, &thread_inbox, turns);
            })?
        }
        Driver::Caller(caller) => {
            let (name, offered) = (config.name, Arc::clone(&inbox));
            let mut turns = turns;
            caller.add(Box::new(move || {
                if !offered.has_arrivals() && !turns.has_work() {
                    return Turn::Idle;
                }
                if thread::turn(&name, &offered, &mut turns) {
                    return Turn::Taken;
                }
                offered.ended();
                Turn::Last
            }));
            EngineThread::of_caller(caller, Arc::clone(&inbox))
        }
    };
    Ok((EngineHandle::new(inbox, config.clock, scheduling), thread))
}
