//! The structures that kernels take, as the sources in `kernels/` declare them. A test compares the offset of each field
//! with the C++ compiler's.

use super::driver::DeviceAddress;

/// Where the fields of a structure lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Name of the structure in the sources.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Name and offset of each field.
    pub fields: Vec<(&'static str, usize)>,
}

/// A structure that can be passed to a kernel byte by byte.
///
/// # Safety
/// It has the layout of C, and no bytes between its fields or after them.
pub unsafe trait Argument: Copy {
    /// Where its fields lie.
    fn layout() -> Layout;
}

/// The bytes of an argument.
pub fn bytes_of<A: Argument>(argument: &A) -> &[u8] {
    // SAFETY: the trait promises that there are no bytes without a value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(argument).cast(), size_of::<A>()) }
}

/// Declares structures of kernels, and the list of their layouts.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            #[repr(C)]
            #[allow(missing_docs, reason = "the sources in kernels/ say what each field is")]
            pub struct $name {
                $(pub $field: $type,)*
            }

            // SAFETY: `repr(C)`, and the sum of the fields' sizes is checked to be the size.
            unsafe impl Argument for $name {
                fn layout() -> Layout {
                    Layout {
                        name: stringify!($name),
                        size: size_of::<Self>(),
                        fields: vec![$((stringify!($field), std::mem::offset_of!(Self, $field)),)*],
                    }
                }
            }

            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);
        )*

        /// The layouts of all structures.
        pub fn layouts() -> Vec<Layout> {
            vec![$($name::layout(),)*]
        }
    };
}

arguments! {
    /// Of `embed`.
    EmbedArgs {
        table: DeviceAddress,
        position_table: DeviceAddress,
        tokens: DeviceAddress,
        positions: DeviceAddress,
        hidden: DeviceAddress,
        width: u32,
        scale: f32,
    }
    /// Of `norm_rows`.
    NormRowsArgs {
        x: DeviceAddress,
        weight: DeviceAddress,
        bias: DeviceAddress,
        rounded: DeviceAddress,
        sum: DeviceAddress,
        width: u32,
        kind: u32,
        eps: f32,
        padding: u32,
    }
    /// Of `norm_heads`.
    NormHeadsArgs {
        qkv: DeviceAddress,
        weight: DeviceAddress,
        qkv_width: u32,
        head_dim: u32,
        kind: u32,
        eps: f32,
    }
    /// Of `rope_store`.
    RopeStoreArgs {
        qkv: DeviceAddress,
        cos: DeviceAddress,
        sin: DeviceAddress,
        positions: DeviceAddress,
        slots: DeviceAddress,
        keys: DeviceAddress,
        values: DeviceAddress,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        pairs: u32,
        interleaved: u32,
        padding: u32,
    }
    /// Of `gate`.
    GateArgs {
        gate_up: DeviceAddress,
        gated: DeviceAddress,
        width: u32,
        activation: u32,
    }
    /// Of `activate`.
    ActivateArgs {
        rows: DeviceAddress,
        width: u32,
        activation: u32,
    }
    /// Of `add_bias`.
    AddBiasArgs {
        rows: DeviceAddress,
        bias: DeviceAddress,
        width: u32,
        padding: u32,
    }
    /// Of `round_rows`.
    RoundRowsArgs {
        x: DeviceAddress,
        rounded: DeviceAddress,
        width: u32,
        padding: u32,
    }
    /// Of `keep_rows`.
    KeepRowsArgs {
        rows: DeviceAddress,
        indices: DeviceAddress,
        count: u32,
        words: u32,
    }
    /// Of the three kernels of attention.
    AttentionArgs {
        qkv: DeviceAddress,
        keys: DeviceAddress,
        values: DeviceAddress,
        tables: DeviceAddress,
        tiles: DeviceAddress,
        out: DeviceAddress,
        partial: DeviceAddress,
        heads: u32,
        kv_heads: u32,
        qkv_width: u32,
        window: u32,
        segments: u32,
        scale: f32,
        soft_cap: f32,
        padding: u32,
    }
    /// Some neighbouring query rows of a sequence, which attention computes together.
    Tile {
        first_row: u32,
        sequence_row: u32,
        rows: u32,
        context: u32,
        table: u32,
    }
    /// An adapter's update of some outputs of a product.
    LowRankPart {
        a: DeviceAddress,
        b: DeviceAddress,
        rank: u32,
        first_output: u32,
        outputs: u32,
        padding: u32,
    }
    /// Of `low_rank_down`.
    LowRankDownArgs {
        x: DeviceAddress,
        parts: DeviceAddress,
        adapters: DeviceAddress,
        inner: DeviceAddress,
        inputs: u32,
        max_rank: u32,
    }
    /// Of `low_rank_up`.
    LowRankUpArgs {
        inner: DeviceAddress,
        parts: DeviceAddress,
        adapters: DeviceAddress,
        out: DeviceAddress,
        out_width: u32,
        max_rank: u32,
    }
    /// Weights that stay packed.
    PackedMatrix {
        integers: DeviceAddress,
        factors: DeviceAddress,
        bases: DeviceAddress,
        outputs: u32,
        inputs: u32,
        zero: u32,
        groups: u32,
        has_minimum: u32,
        padding: u32,
    }
    /// Of `packed_product_8` and `packed_product_4`.
    PackedProductArgs {
        weights: PackedMatrix,
        x: DeviceAddress,
        out: DeviceAddress,
        rows: u32,
        out_width: u32,
        add: u32,
        padding: u32,
    }
    /// Of `packed_expand_8` and `packed_expand_4`.
    PackedExpandArgs {
        weights: PackedMatrix,
        out: DeviceAddress,
    }
    /// Of `fill_noise`.
    FillNoiseArgs {
        out: DeviceAddress,
        counter: u64,
        count: u32,
        scale: f32,
    }
    /// Which of the step's probe tokens are a row's.
    Probe {
        first: u32,
        count: u32,
    }
    /// What `read_logits` says of a row.
    RowReading {
        log_sum_exp: f64,
        max: f32,
        most_likely: u32,
        sound: u32,
        padding: u32,
    }
    /// One of a row's largest logits.
    TopLogit {
        token: u32,
        logit: f32,
    }
    /// Of `top_logits`.
    TopLogitsArgs {
        logits: DeviceAddress,
        inverse_temperatures: DeviceAddress,
        top: DeviceAddress,
        weights: DeviceAddress,
        vocab: u32,
        count: u32,
    }
    /// Of `read_logits`.
    ReadLogitsArgs {
        logits: DeviceAddress,
        probes: DeviceAddress,
        probe_tokens: DeviceAddress,
        readings: DeviceAddress,
        probe_logits: DeviceAddress,
        vocab: u32,
        scale: f32,
        soft_cap: f32,
        padding: u32,
    }
}
