//! Kernels without reductions as what another text does with each element that it reads or writes: types with functions, which
//! `matmul/kernel.cu` calls.
//!
//! ```text
//! struct Left {
//!     static constexpr int OPERANDS = 2, WIDTH = 1;
//!     static constexpr bool PLAIN = false;
//!     f32 x0 = 0;
//!     f32 x1 = 0;
//!     void load(char* const* at)                               // what is in memory, of the element at these addresses
//!     T element(const Parameters& a, int k) const              // what is computed from that
//! };
//! ```
//!
//! What is written has `void store(const Parameters& a, char* const* at, T sum) const` in place of `element`. Where nothing is
//! fused the types are `PLAIN`: they copy elements, `WIDTH` of them at once.

use super::Unit;
use super::class::{Class, MEDIUM, Schedule};
use super::prim::{self, Helpers, memory_type, value_type};
use super::stage::Places;
use super::text::Text;
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Inst, Kernel};

/// A kernel without reductions and scratch, one of whose operands is not in memory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fused {
    /// The kernel; the access of its operands means nothing.
    pub kernel: Kernel,
    /// The operand that is computed, or read, by what it is fused into.
    pub value: usize,
}

impl Fused {
    /// The operands that are in memory.
    pub(crate) fn memory(&self) -> impl Iterator<Item = usize> + use<> {
        let value = self.value;
        (0..self.kernel.operands.len()).filter(move |n| *n != value)
    }

    /// The name of a memory operand's element: they are counted without the one that is not in memory.
    fn element(&self, operand: usize) -> String {
        format!("x{}", self.place(operand))
    }

    fn place(&self, operand: usize) -> usize {
        operand - usize::from(operand > self.value)
    }
}

/// The types of a text under construction.
#[derive(Default)]
pub(crate) struct Elements {
    uses: Helpers,
    types: Text,
    params: u32,
}

/// There are neither vectors nor indices in these texts.
const CLASS: Class =
    Class { schedule: Schedule::Map { vector: 1, unroll: 1, flat: false }, ranks: [0; 3], wide: true, ahead: true };
/// Elements of a thread whose operands are loaded before the first one is stored.
const BATCH: usize = 4;
const DEVICE: &str = "__device__ __forceinline__";

impl Elements {
    /// A type for elements of `T` that are read as they are, so many at once.
    pub fn plain_input(&mut self, name: &str, width: usize) {
        let text = &mut self.types;
        text.open(&format!("struct {name}"));
        text.line(&format!("static constexpr int OPERANDS = 1, WIDTH = {width};"));
        text.line("static constexpr bool PLAIN = true;");
        text.line("Vector<T, WIDTH> elements = {};");
        text.line(&format!("{DEVICE} void load(char* const* at) {{ elements = *(const Vector<T, WIDTH>*)at[0]; }}"));
        text.line(&format!("{DEVICE} T element(const Parameters&, int k) const {{ return elements.e[k]; }}"));
        text.close_with(";");
    }

    /// A type for elements of `T` that are written as they are.
    pub fn plain_output(&mut self, name: &str) {
        let text = &mut self.types;
        text.open(&format!("struct {name}"));
        text.line("static constexpr int OPERANDS = 1, BATCH = 1;");
        text.line(&format!("{DEVICE} void load(char* const*) {{}}"));
        text.line(&format!(
            "{DEVICE} void store(const Parameters&, char* const* at, T sum) const {{ *(T*)at[0] = sum; }}"
        ));
        text.close_with(";");
    }

    /// A type for elements that a kernel computes.
    pub fn input(&mut self, name: &str, fused: &Fused) {
        self.fused(name, fused, "WIDTH = 1", |unit, fused| {
            unit.text.open(&format!("{DEVICE} T element(const Parameters& a, int) const"));
            unit.text.line("T result;");
            unit.fused_element(fused, &|_| "result".to_owned());
            unit.text.line("return result;");
            unit.text.close();
        });
    }

    /// A type for elements from which a kernel computes what is stored.
    pub fn output(&mut self, name: &str, fused: &Fused) {
        let batch = if fused.kernel.ops_per_element() > MEDIUM { 1 } else { BATCH };
        self.fused(name, fused, &format!("BATCH = {batch}"), |unit, fused| {
            unit.text.open(&format!("{DEVICE} void store(const Parameters& a, char* const* at, T sum) const"));
            let place = |n: u32| {
                let dtype = fused.kernel.operands[n as usize].dtype;
                format!("*({}*)at[{}]", memory_type(dtype), fused.place(n as usize))
            };
            unit.fused_element(fused, &place);
            unit.text.close();
        });
    }

    fn fused(&mut self, name: &str, fused: &Fused, constant: &str, function: impl FnOnce(&mut Unit<'_>, &Fused)) {
        // Parameters of all kernels are in one struct.
        let mut fused = fused.clone();
        for data in &mut fused.kernel.insts {
            if let Inst::Param(n) = &mut data.inst {
                *n += self.params;
            }
        }
        let mut unit = Unit::new(&fused.kernel, &CLASS);
        unit.uses = std::mem::take(&mut self.uses);
        unit.text.open(&format!("struct {name}"));
        unit.text.line(&format!("static constexpr int OPERANDS = {}, {constant};", fused.memory().count()));
        unit.text.line("static constexpr bool PLAIN = false;");
        let loads: Vec<(String, DType, usize)> = fused
            .memory()
            .filter(|n| fused.kernel.insts.iter().any(|data| data.inst == Inst::Load(*n as u32)))
            .map(|n| (fused.element(n), fused.kernel.operands[n].dtype, fused.place(n)))
            .collect();
        for (element, dtype, _) in &loads {
            unit.text.line(&format!("{} {element} = 0;", memory_type(*dtype)));
        }
        unit.text.open(&format!("{DEVICE} void load(char* const* at)"));
        for (element, dtype, place) in &loads {
            unit.text.line(&format!("{element} = *(const {}*)at[{place}];", memory_type(*dtype)));
        }
        unit.text.close();
        function(&mut unit, &fused);
        unit.text.close_with(";");
        self.uses = unit.uses;
        self.types.append(unit.text);
        self.params += fused.kernel.params.len() as u32;
    }

    /// The text: what all texts begin with, `constants`, and the types for elements of `T`.
    pub fn finish(mut self, dtype: DType, constants: &str) -> String {
        self.uses.vectors = true;
        let mut text = Text::default();
        prim::prelude(&mut text, &CLASS, &self.uses);
        text.line(&format!("typedef {} T;", value_type(dtype)));
        text.open("struct Parameters");
        for n in 0..self.params {
            text.line(&format!("i64 p{n};"));
        }
        if self.params == 0 {
            text.line("i64 none;");
        }
        text.close_with(";");
        let mut text = text.finish();
        text.push_str(constants);
        text.push_str(&self.types.finish());
        text
    }
}

impl Unit<'_> {
    /// The instructions for one element, which is `sum` where the kernel reads what is not in memory.
    fn fused_element(&mut self, fused: &Fused, store: &dyn Fn(u32) -> String) {
        let load = |n: u32| if n as usize == fused.value { "sum".to_owned() } else { fused.element(n as usize) };
        let none = |_: u32| unreachable!("what is fused has no reductions and no scratch");
        let store = |n: u32| Some(store(n));
        let places = Places { load: &load, store: &store, scratch: &none, reduced: &none, only: None };
        for stage in 0..fused.kernel.stages.len() {
            self.stage(stage, &places);
        }
    }
}
