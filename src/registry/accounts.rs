//! The memory accounts of all devices. Models are numbered over all devices, as everywhere in the registry; each
//! [`MemoryLedger`] numbers its own. Devices that use the host's memory share one ledger, a device with memory of its own has
//! one to itself.

use super::{
    budget::{EvictionPlan, MemoryLedger, MemoryNeed, MemoryUse, ResidencyTerms, Shortage},
    device_options::{DeviceOptions, MemoryOwner},
};

/// One ledger for each pool of memory.
pub(super) struct Accounts {
    ledgers: Vec<MemoryLedger>,
    /// The ledger of each device.
    pools: Vec<usize>,
    /// For each ledger, the models that are kept there.
    models: Vec<Vec<usize>>,
    /// Where the account of each model is.
    accounts: Vec<AccountIndex>,
}

/// How a model is kept in memory, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceTerms {
    /// Index of the device.
    pub(super) device: usize,
    pub(super) terms: ResidencyTerms,
}

/// Where the account of a model is.
#[derive(Debug, Clone, Copy)]
struct AccountIndex {
    ledger: usize,
    /// Among the models of that ledger.
    model: usize,
}

impl Accounts {
    /// Nothing is taken. `terms` are the models'. The budget of the host's memory is that of the first device that uses it.
    pub(super) fn new(devices: &[DeviceOptions], terms: &[DeviceTerms]) -> Self {
        let mut budgets = Vec::new();
        let mut host = None;
        let mut pools = Vec::with_capacity(devices.len());
        for device in devices {
            let known = match device.memory_owner {
                MemoryOwner::Host => host,
                MemoryOwner::Device => None,
            };
            let pool = known.unwrap_or_else(|| {
                budgets.push(device.memory.budget);
                budgets.len() - 1
            });
            if device.memory_owner == MemoryOwner::Host {
                host = Some(pool);
            }
            pools.push(pool);
        }
        let mut models = vec![Vec::new(); budgets.len()];
        let mut of_ledger = vec![Vec::new(); budgets.len()];
        let mut accounts = Vec::with_capacity(terms.len());
        for (model, DeviceTerms { device, terms }) in terms.iter().enumerate() {
            let ledger = pools[*device];
            accounts.push(AccountIndex {
                ledger,
                model: models[ledger].len(),
            });
            models[ledger].push(model);
            of_ledger[ledger].push(*terms);
        }
        let ledgers = budgets.into_iter().zip(of_ledger);
        Self {
            ledgers: ledgers
                .map(|(budget, terms)| MemoryLedger::new(budget, terms))
                .collect(),
            pools,
            models,
            accounts,
        }
    }

    /// The first pool of memory whose models that are loaded at the start do not fit together, with its ledger.
    pub(super) fn over_budget(&self) -> Option<(usize, &MemoryLedger)> {
        let mut ledgers = self.ledgers.iter().enumerate();
        ledgers.find(|(_, ledger)| ledger.eager_least() > ledger.budget())
    }

    /// The pool of memory that the models of a device are in.
    pub(super) fn pool_of(&self, device: usize) -> usize {
        self.pools[device]
    }

    /// Each pool of memory, with the first device whose models are there.
    pub(super) fn pools(&self) -> impl Iterator<Item = (usize, MemoryUse)> {
        (0..self.ledgers.len()).filter_map(|pool| {
            let device = self.pools.iter().position(|of_device| *of_device == pool)?;
            Some((device, self.of_device(device)))
        })
    }

    /// The memory of a device.
    pub(super) fn of_device(&self, device: usize) -> MemoryUse {
        self.of_ledger(self.pools[device])
    }

    fn of_ledger(&self, ledger: usize) -> MemoryUse {
        let ledger = &self.ledgers[ledger];
        MemoryUse {
            budget: ledger.budget(),
            available: ledger.available(),
        }
    }

    /// The memory of the device that a model is computed on.
    pub(super) fn of_model(&self, model: usize) -> MemoryUse {
        self.of_ledger(self.accounts[model].ledger)
    }

    /// See [`MemoryLedger::plan`].
    pub(super) fn plan(&self, model: usize, need: MemoryNeed) -> Result<EvictionPlan, Shortage> {
        let AccountIndex { ledger, model } = self.accounts[model];
        let plan = self.ledgers[ledger].plan(model, need);
        let plan = plan.map_err(|shortage| self.numbered(ledger, shortage))?;
        Ok(EvictionPlan {
            evict: self.global(ledger, &plan.evict),
            ..plan
        })
    }

    /// See [`MemoryLedger::reserve`].
    pub(super) fn reserve(&mut self, model: usize, bytes: u64) -> Result<(), Shortage> {
        let AccountIndex { ledger, model } = self.accounts[model];
        let reserved = self.ledgers[ledger].reserve(model, bytes);
        reserved.map_err(|shortage| self.numbered(ledger, shortage))
    }

    /// See [`MemoryLedger::set_need`].
    pub(super) fn set_need(&mut self, model: usize, need: MemoryNeed) {
        let (ledger, model) = self.ledger(model);
        ledger.set_need(model, need);
    }

    /// See [`MemoryLedger::set_pinned`].
    pub(super) fn set_pinned(&mut self, model: usize, pinned: bool) {
        let (ledger, model) = self.ledger(model);
        ledger.set_pinned(model, pinned);
    }

    /// See [`MemoryLedger::is_pinned`].
    pub(super) fn is_pinned(&self, model: usize) -> bool {
        let AccountIndex { ledger, model } = self.accounts[model];
        self.ledgers[ledger].is_pinned(model)
    }

    /// See [`MemoryLedger::mark_ready`].
    pub(super) fn mark_ready(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.mark_ready(model);
    }

    /// See [`MemoryLedger::mark_unready`].
    pub(super) fn mark_unready(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.mark_unready(model);
    }

    /// See [`MemoryLedger::release`].
    pub(super) fn release(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.release(model);
    }

    /// See [`MemoryLedger::begin_use`].
    pub(super) fn begin_use(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.begin_use(model);
    }

    /// See [`MemoryLedger::end_use`].
    pub(super) fn end_use(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.end_use(model);
    }

    /// See [`MemoryLedger::in_use`].
    pub(super) fn in_use(&self, model: usize) -> usize {
        let AccountIndex { ledger, model } = self.accounts[model];
        self.ledgers[ledger].in_use(model)
    }

    fn ledger(&mut self, model: usize) -> (&mut MemoryLedger, usize) {
        let AccountIndex { ledger, model } = self.accounts[model];
        (&mut self.ledgers[ledger], model)
    }

    fn global(&self, ledger: usize, models: &[usize]) -> Vec<usize> {
        models.iter().map(|&model| self.models[ledger][model]).collect()
    }

    fn numbered(&self, ledger: usize, shortage: Shortage) -> Shortage {
        Shortage {
            unpinned: self.global(ledger, &shortage.unpinned),
            ..shortage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{Backend as _, Execution, cpu::CpuBackend},
        config::LoadPolicy,
        engine::{Clock, Driver, EngineConfig, TenantWeights},
        registry::{budget::KvSize, device_options::MemoryOptions},
    };

    const NEED: MemoryNeed = MemoryNeed {
        weights: 60,
        scratch: 0,
        kv_min: 40,
        kv_max: 40,
    };

    fn device(budget: u64, memory_owner: MemoryOwner) -> DeviceOptions {
        let info = CpuBackend::new(1).device().clone();
        DeviceOptions {
            memory: MemoryOptions {
                budget,
                kv: KvSize::Auto,
            },
            memory_owner,
            engine: EngineConfig {
                name: "engine-test".to_owned(),
                model_names: Vec::new(),
                max_batch_sequences: 1,
                max_batch_tokens: 1,
                queue_items: 1,
                queue_tokens: 1,
                step_target: None,
                cost_prior: info.cost_prior,
                execution: Execution::Synchronous,
                tenant_weights: TenantWeights::default(),
                clock: Clock::default(),
                driver: Driver::default(),
            },
            info,
        }
    }

    fn cards(budgets: [u64; 2]) -> [DeviceOptions; 2] {
        budgets.map(|budget| device(budget, MemoryOwner::Device))
    }

    /// The terms of a model on each of these devices.
    fn on<const N: usize>(policy: LoadPolicy, devices: [usize; N]) -> [DeviceTerms; N] {
        let terms = ResidencyTerms {
            policy,
            pinned: false,
            need: Some(NEED),
        };
        devices.map(|device| DeviceTerms { device, terms })
    }

    fn memory(budget: u64, available: u64) -> MemoryUse {
        MemoryUse { budget, available }
    }

    #[test]
    fn a_model_makes_room_on_its_own_device_only() {
        // Two models on each of two devices, which have room for one each.
        let mut accounts = Accounts::new(&cards([100, 150]), &on(LoadPolicy::Lazy, [0, 1, 0, 1]));
        for model in [0, 1] {
            accounts.reserve(model, 100).unwrap();
            accounts.mark_ready(model);
        }
        assert_eq!(accounts.plan(3, NEED).unwrap().evict, [1]);
        assert_eq!(accounts.plan(2, NEED).unwrap().evict, [0]);
        assert_eq!(accounts.of_model(3), memory(150, 50));
        assert_eq!(accounts.of_device(0), memory(100, 0));
        let pools: Vec<_> = accounts.pools().collect();
        assert_eq!(pools, [(0, memory(100, 0)), (1, memory(150, 50))]);
        accounts.begin_use(1);
        assert_eq!(accounts.plan(3, NEED).unwrap_err().unpinned, [1]);
        assert_eq!(accounts.reserve(3, 100).unwrap_err().available, 50);
    }

    #[test]
    fn devices_without_memory_of_their_own_share_the_hosts() {
        let devices = [
            device(150, MemoryOwner::Host),
            device(500, MemoryOwner::Device),
            device(150, MemoryOwner::Host),
        ];
        let mut accounts = Accounts::new(&devices, &on(LoadPolicy::Lazy, [0, 1, 2]));
        accounts.reserve(0, 100).unwrap();
        accounts.mark_ready(0);
        assert_eq!(accounts.of_device(2), memory(150, 50));
        assert_eq!(accounts.of_device(1), memory(500, 500));
        assert_eq!(accounts.plan(2, NEED).unwrap().evict, [0]);
        let pools: Vec<_> = accounts.pools().map(|(device, _)| device).collect();
        assert_eq!(pools, [0, 1]);
        assert_eq!([0, 1, 2].map(|device| accounts.pool_of(device)), [0, 1, 0]);
    }

    #[test]
    fn the_device_that_lacks_memory_at_the_start_is_found() {
        let fits = Accounts::new(&cards([100, 100]), &on(LoadPolicy::Eager, [0, 1]));
        assert!(fits.over_budget().is_none());
        let lacks = Accounts::new(&cards([100, 150]), &on(LoadPolicy::Eager, [0, 1, 1]));
        assert_eq!(lacks.over_budget().map(|(pool, _)| pool), Some(1));
    }
}
