//! The memory accounts of all devices. Models are numbered over all devices, as everywhere in the registry; each device's
//! [`Ledger`] numbers its own.

use super::budget::{Ledger, Need, Plan, Shortage, Terms};

/// One ledger for each device.
pub(super) struct Accounts {
    ledgers: Vec<Ledger>,
    /// For each device, the models that are computed there.
    models: Vec<Vec<usize>>,
    /// Where the account of each model is.
    accounts: Vec<AccountIndex>,
}

/// Where the account of a model is.
#[derive(Debug, Clone, Copy)]
struct AccountIndex {
    device: usize,
    /// Among the models of that device.
    model: usize,
}

/// What the memory of a device comes to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What models may take.
    pub budget: u64,
    /// What of it is free.
    pub available: u64,
}

impl Accounts {
    /// Nothing is taken. `budgets` are the devices', in bytes; `terms` are the models', each with the index of its device.
    pub(super) fn new(budgets: &[u64], terms: &[(usize, Terms)]) -> Self {
        let mut models = vec![Vec::new(); budgets.len()];
        let mut of_device = vec![Vec::new(); budgets.len()];
        let mut accounts = Vec::with_capacity(terms.len());
        for (model, (device, terms)) in terms.iter().enumerate() {
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
                .map(|(budget, terms)| Ledger::new(*budget, terms))
                .collect(),
            models,
            accounts,
        }
    }

    /// The first device whose models that are loaded at the start do not fit together, with its ledger.
    pub(super) fn over_budget(&self) -> Option<(usize, &Ledger)> {
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
        self.ledgers.iter().map(Ledger::taken).sum()
    }

    /// The memory of a device.
    pub(super) fn of_device(&self, device: usize) -> DeviceMemory {
        let ledger = &self.ledgers[device];
        DeviceMemory {
            budget: ledger.budget(),
            available: ledger.available(),
        }
    }

    /// The memory of the device that a model is computed on.
    pub(super) fn of_model(&self, model: usize) -> DeviceMemory {
        self.of_device(self.accounts[model].device)
    }

    /// See [`Ledger::plan`].
    pub(super) fn plan(&self, model: usize, need: Need) -> Result<Plan, Shortage> {
        let AccountIndex { device, model } = self.accounts[model];
        let plan = self.ledgers[device].plan(model, need);
        let plan = plan.map_err(|shortage| self.numbered(device, shortage))?;
        Ok(Plan {
            evict: self.global(device, &plan.evict),
            ..plan
        })
    }

    /// See [`Ledger::take`].
    pub(super) fn take(&mut self, model: usize, bytes: u64) -> Result<(), Shortage> {
        let AccountIndex { device, model } = self.accounts[model];
        let taken = self.ledgers[device].take(model, bytes);
        taken.map_err(|shortage| self.numbered(device, shortage))
    }

    /// See [`Ledger::set_need`].
    pub(super) fn set_need(&mut self, model: usize, need: Need) {
        let (ledger, model) = self.ledger(model);
        ledger.set_need(model, need);
    }

    /// See [`Ledger::set_pinned`].
    pub(super) fn set_pinned(&mut self, model: usize, pinned: bool) {
        let (ledger, model) = self.ledger(model);
        ledger.set_pinned(model, pinned);
    }

    /// See [`Ledger::is_pinned`].
    pub(super) fn is_pinned(&self, model: usize) -> bool {
        let AccountIndex { device, model } = self.accounts[model];
        self.ledgers[device].is_pinned(model)
    }

    /// See [`Ledger::settle`].
    pub(super) fn settle(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.settle(model);
    }

    /// See [`Ledger::unsettle`].
    pub(super) fn unsettle(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.unsettle(model);
    }

    /// See [`Ledger::release`].
    pub(super) fn release(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.release(model);
    }

    /// See [`Ledger::enter`].
    pub(super) fn enter(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.enter(model);
    }

    /// See [`Ledger::leave`].
    pub(super) fn leave(&mut self, model: usize) {
        let (ledger, model) = self.ledger(model);
        ledger.leave(model);
    }

    /// See [`Ledger::in_use`].
    pub(super) fn in_use(&self, model: usize) -> usize {
        let AccountIndex { device, model } = self.accounts[model];
        self.ledgers[device].in_use(model)
    }

    fn ledger(&mut self, model: usize) -> (&mut Ledger, usize) {
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

    const NEED: Need = Need {
        weights: 60,
        scratch: 0,
        kv_min: 40,
        kv_max: 40,
    };

    /// Two models on each of two devices, which have room for one each.
    fn two_devices() -> Accounts {
        let terms = Terms {
            policy: LoadPolicy::Lazy,
            pinned: false,
            need: Some(NEED),
        };
        Accounts::new(&[100, 150], &[0, 1, 0, 1].map(|device| (device, terms)))
    }

    #[test]
    fn a_model_makes_room_on_its_own_device_only() {
        let mut accounts = two_devices();
        for model in [0, 1] {
            accounts.take(model, 100).unwrap();
            accounts.settle(model);
        }
        assert_eq!(accounts.plan(3, NEED).unwrap().evict, [1]);
        assert_eq!(accounts.plan(2, NEED).unwrap().evict, [0]);
        assert_eq!((accounts.budget(), accounts.taken()), (250, 200));
        let memory = |budget, available| DeviceMemory { budget, available };
        assert_eq!(accounts.of_model(3), memory(150, 50));
        assert_eq!(accounts.of_device(0), memory(100, 0));
        accounts.enter(1);
        assert_eq!(accounts.plan(3, NEED).unwrap_err().unpinned, [1]);
        assert_eq!(accounts.take(3, 100).unwrap_err().available, 50);
    }

    #[test]
    fn the_device_that_lacks_memory_at_the_start_is_found() {
        let terms = Terms {
            policy: LoadPolicy::Eager,
            pinned: false,
            need: Some(NEED),
        };
        let fits = Accounts::new(&[100, 100], &[(0, terms), (1, terms)]);
        assert!(fits.over_budget().is_none());
        let lacks = Accounts::new(&[100, 150], &[(0, terms), (1, terms), (1, terms)]);
        assert_eq!(lacks.over_budget().map(|(device, _)| device), Some(1));
    }
}
