//! A device of candle as a backend.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::{
    adapter::CandleAdapter,
    device::{self, OpenError},
    faults::Faults,
    footprint::{self, Place},
    kv_cache::{BLOCK_TOKENS, CandleCache, block_bytes},
    ops::{CandleOps, CandleState},
};
use crate::{
    backend::{
        Backend, CostPrior, Determinism, DeviceFinding, DeviceInfo, DeviceMemory, Execution, Footprint,
        LoadOptions, LoadedModel, ModelLimits,
        cpu::CpuBackend,
        decoder::{Decoder, adapters::adapters_of, footprint::pool_blocks, kind::expect_decoder},
        self_test,
    },
    model::{
        AdapterWeights, Extent, LoadError, LoadFault, ResourceProblem, WeightSource, open_decoder,
        spec::{CandleDevice, DeviceName, ModelConfig, Precision, Products, TokenKind},
    },
};

/// A precision that candle's devices do not compute in.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("candle's devices do not compute in {}; set the precision to auto, int8, bf16 or f32", .0.name())]
struct UnsupportedPrecision(Precision);

/// A device of candle. It computes decoders, and no estimators of translation quality.
#[derive(Debug, Clone)]
pub struct CandleBackend {
    device: Device,
    info: DeviceInfo,
}

impl CandleBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// When it is not part of this build, or the driver refuses it.
    pub fn new(device: CandleDevice) -> Result<Self, OpenError> {
        let best = match device {
            CandleDevice::Cpu => Precision::Int8,
            CandleDevice::Metal | CandleDevice::Cuda(_) => Precision::Bf16,
        };
        Ok(Self {
            device: device::open(device)?,
            info: DeviceInfo {
                name: DeviceName::Candle(device),
                architecture: device::architecture(device).to_owned(),
                best_precision: best,
                // Candle's libraries choose the kernel of a product, and so the order of its sums, by the number of rows.
                determinism: Determinism::BestEffort,
                // Products are computed, or waited for, one after the other.
                execution: Execution::Synchronous,
                cost_prior: CostPrior::SMALL_MACHINE,
            },
        })
    }

    /// How products are computed, which is the same for all tokens.
    ///
    /// # Errors
    /// When candle's devices do not compute in this precision.
    fn products(&self, precision: Precision) -> Result<Products, LoadFault> {
        let [prompt, generated] =
            [TokenKind::Prompt, TokenKind::Generated].map(|kind| precision.products(kind));
        if prompt == generated {
            return Ok(prompt);
        }
        let problem = ResourceProblem::Device {
            device: self.info.name,
            error: Box::new(UnsupportedPrecision(precision)),
        };
        Err(problem.into())
    }

    fn load_decoder(
        &self,
        mut config: ModelConfig,
        source: &dyn WeightSource,
        adapters: Vec<CandleAdapter>,
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadFault> {
        config.limit_context(options.max_context);
        let (precision, format) = (options.precision, options.precision.kv_format());
        let products = self.products(precision)?;
        let blocks = pool_blocks(options.kv_bytes, block_bytes(&config, format))?;
        let loaded_adapters = adapters.iter().map(CandleAdapter::describe).collect();
        let limits = ModelLimits::of_decoder(&config, BLOCK_TOKENS, blocks);
        let faults = Faults::default();
        let state = CandleState {
            device: self.device.clone(),
            products,
            cache: CandleCache::new(&config, format, blocks, &self.device)?,
            adapters,
            faults: faults.clone(),
        };
        let ops = CandleOps::new(&config, state);
        let (decoder, summary) = Decoder::load(&config, source, ops, limits)?;
        if let Some(reason) = faults.take() {
            let fault = ResourceProblem::Device {
                device: self.info.name,
                error: reason.into(),
            };
            return Err(fault.into());
        }
        Ok(LoadedModel {
            kv_bytes: decoder.kv_bytes(),
            model: Box::new(decoder),
            architecture: config.architecture,
            layers: config.layers.len(),
            parameters: summary.parameters,
            dtype: summary.dtype,
            precision,
            determinism: self.info.determinism,
            weight_bytes: summary.bytes,
            adapters: loaded_adapters,
        })
    }
}

impl Backend for CandleBackend {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Candle does not say what is free: a GPU's memory is counted with the host's.
    fn memory(&self) -> Option<DeviceMemory> {
        None
    }

    fn self_test(&self) -> Vec<DeviceFinding> {
        self_test::beside(self, &CpuBackend::new(1), &[Precision::F32, Precision::Bf16])
    }

    fn effective_precision(&self, _path: &Path, requested: Precision) -> Precision {
        requested
    }

    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<Footprint, LoadError> {
        expect_decoder(path, self.info.name)?;
        open_decoder(path, |mut config, source| {
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                AdapterWeights::read(path, base, Extent::Headers)
                    .map(|weights| CandleAdapter::bytes_for(&weights))
            })?;
            config.limit_context(options.max_context);
            let place = Place {
                products: self.products(options.precision)?,
                kv_format: options.precision.kv_format(),
                on_cpu: self.device.is_cpu(),
            };
            let mut footprint = footprint::of_decoder(&config, source, place, options.batch)?;
            footprint.weight_bytes += adapters.iter().sum::<u64>();
            Ok(footprint)
        })
    }

    fn load(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError> {
        expect_decoder(path, self.info.name)?;
        open_decoder(path, |config, source| {
            // Adapters are read before the weights, which take longer, so that one that does not fit is reported at once.
            let adapters = adapters_of(adapters, &config, source, |path, base| {
                CandleAdapter::load(AdapterWeights::read(path, base, Extent::Whole)?, &self.device)
            })?;
            self.load_decoder(config, source, adapters, options)
        })
    }
}
