//! The memory accounts of all devices. Models are numbered over all devices, as everywhere in the registry; each device's
//! [`MemoryLedger`] numbers its own.

use super::budget::{EvictionPlan, MemoryLedger, MemoryNeed, MemoryUse, ResidencyTerms, Shortage};

/// One ledger for each device.
pub(super) struct Accounts {
    ledgers: Vec<MemoryLedger>,
    /// For each device, the models that are computed there.
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
    device: usize,
    /// Among the models of that device.
    model: usize,
}

impl Accounts {
    /// Nothing is taken. `budgets` are the devices', in bytes; `terms` are the models'.
    pub(super) fn new(budgets: &[u64], terms: &[DeviceTerms]) -> Self {
        let mut models = vec![Vec::new(); budgets.len()];
        let mut of_device = vec![Vec::new(); budgets.len()];
        let mut accounts = Vec::with_capacity(terms.len());
        for (model, DeviceTerms { device, terms }) in terms.iter().enumerate() {
            accounts.push(AccountIndex {
                device: *device,
                model: models[*device].len(),
            });
            models[*device].push(model);
            of_device[*device].push(*terms);
        }
        let ledgers = budgets.iter().zip(of_device);
        Self {
            ledgers: ledgers
                .map(|(budget, terms)| MemoryLedger::new(*budget, terms))
                .collect(),
            models,
            accounts,
        }
    }

    /// The first device whose models that are loaded at the start do not fit together, with its ledger.
    pub(super) fn over_budget(&self) -> Option<(usize, &MemoryLedger)> {
        let mut ledgers = self.ledgers.iter().enumerate();
        ledgers.find(|(_, ledger)| ledger.eager_least() > ledger.budget())
    }

    /// Bytes that models may take, on all devices.
    pub(super) fn budget(&self) -> u64 {
        self.ledgers
            .iter()
            .fold(0, |sum: u64, ledger| sum.saturating_add(ledger.budget()))
    }

    /// Bytes that models hold, on all devices.
    pub(super) fn taken(&self) -> u64 {
        self.ledgers.iter().map(MemoryLedger::taken).sum()
    }

    /// The memory of a device.
    pub(super) fn of_device(&self, device: usize) -> MemoryUse {
        let ledger = &self.ledgers[device];
        MemoryUse {
            budget: ledger.budget(),
            available: ledger.available(),
        }
    }

    /// The memory of the device that a model is computed on.
    pub(super) fn of_model(&self, model: usize) -> MemoryUse {
        self.of_device(self.accounts[model].device)
    }

    /// See [`MemoryLedger::plan`].
    pub(super) fn plan(&self, model: usize, need: MemoryNeed) -> Result<EvictionPlan, Shortage> {
        let AccountIndex { device, model } = self.accounts[model];
        let plan = self.ledgers[device].plan(model, need);
        let plan = plan.map_err(|shortage| self.numbered(device, shortage))?;
        Ok(EvictionPlan {
            evict: self.global(device, &plan.evict),
            ..plan
        })
    }

    /// See [`MemoryLedger::reserve`].
    pub(super) fn reserve(&mut self, model: usize, bytes: u64) -> Result<(), Shortage> {
        let AccountIndex { device, model } = self.accounts[model];
        let reserved = self.ledgers[device].reserve(model, bytes);
        reserved.map_err(|shortage| self.numbered(device, shortage))
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
        let AccountIndex { device, model } = self.accounts[model];
        self.ledgers[device].is_pinned(model)
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
        let AccountIndex { device, model } = self.accounts[model];
        self.ledgers[device].in_use(model)
    }

    fn ledger(&mut self, model: usize) -> (&mut MemoryLedger, usize) {
        let AccountIndex { device, model } = self.accounts[model];
        (&mut self.ledgers[device], model)
    }

    fn global(&self, device: usize, models: &[usize]) -> Vec<usize> {
        models.iter().map(|&model| self.models[device][model]).collect()
    }

    fn numbered(&self, device: usize, shortage: Shortage) -> Shortage {
        Shortage {
            unpinned: self.global(device, &shortage.unpinned),
            ..shortage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadPolicy;

    const NEED: MemoryNeed = MemoryNeed {
        weights: 60,
        scratch: 0,
        kv_min: 40,
        kv_max: 40,
    };

    /// Two models on each of two devices, which have room for one each.
    fn two_devices() -> Accounts {
        let terms = ResidencyTerms {
            policy: LoadPolicy::Lazy,
            pinned: false,
            need: Some(NEED),
        };
        Accounts::new(
            &[100, 150],
            &[0, 1, 0, 1].map(|device| DeviceTerms { device, terms }),
        )
    }

    #[test]
    fn a_model_makes_room_on_its_own_device_only() {
        let mut accounts = two_devices();
        for model in [0, 1] {
            accounts.reserve(model, 100).unwrap();
            accounts.mark_ready(model);
        }
        assert_eq!(accounts.plan(3, NEED).unwrap().evict, [1]);
        assert_eq!(accounts.plan(2, NEED).unwrap().evict, [0]);
        assert_eq!((accounts.budget(), accounts.taken()), (250, 200));
        let memory = |budget, available| MemoryUse { budget, available };
        assert_eq!(accounts.of_model(3), memory(150, 50));
        assert_eq!(accounts.of_device(0), memory(100, 0));
        accounts.begin_use(1);
        assert_eq!(accounts.plan(3, NEED).unwrap_err().unpinned, [1]);
        assert_eq!(accounts.reserve(3, 100).unwrap_err().available, 50);
    }

    #[test]
    fn the_device_that_lacks_memory_at_the_start_is_found() {
        let terms = ResidencyTerms {
            policy: LoadPolicy::Eager,
            pinned: false,
            need: Some(NEED),
        };
        let fits = Accounts::new(&[100, 100], &[0, 1].map(|device| DeviceTerms { device, terms }));
        assert!(fits.over_budget().is_none());
        let lacks = Accounts::new(
            &[100, 150],
            &[0, 1, 1].map(|device| DeviceTerms { device, terms }),
        );
        assert_eq!(lacks.over_budget().map(|(device, _)| device), Some(1));
    }
}
