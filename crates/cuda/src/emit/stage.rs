//! Stages: instructions as statements, work that few elements need behind a branch, and tiles of elements.
//!
//! A *tile* is what a thread computes at once: some vectors of consecutive elements. It is loaded before anything is
//! computed, so that as many bytes as possible are on the way at once, and stored afterwards. Elements past the end are
//! loaded from the last one, computed, and not stored: there is no second copy of the code for what is left over.

use super::class::uses;
use super::index::Inner;
use super::prim::{self, memory_type, value_type};
use super::{Field, Group, Unit};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::rare::{Rare, rare};
use numfuse_core::kernel::{Body, Inst, Kernel, Prim, Role, StageKind, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Where the instructions of a stage find their elements: expressions for loads, and lvalues for stores, by their number.
pub(super) struct Places<'a> {
    /// An operand's element.
    pub load: &'a dyn Fn(u32) -> String,
    /// Where an operand's element goes; none if this run of the stage stores nothing.
    pub store: &'a dyn Fn(u32) -> Option<String>,
    /// A scratch slot's element.
    pub scratch: &'a dyn Fn(u32) -> String,
    /// The result of a reduction.
    pub reduced: &'a dyn Fn(u32) -> String,
    /// Only these instructions, if given.
    pub only: Option<&'a BTreeSet<Value>>,
}

/// The vectors of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// Elements of a vector.
    pub vector: usize,
    /// Vectors.
    pub count: usize,
    /// Elements from one vector to the next.
    pub spacing: usize,
    /// True if vectors are aligned.
    pub aligned: bool,
}

impl Tile {
    /// The declaration of the first element of vector `u`, from that of the tile.
    fn index(&self) -> String {
        if self.count == 1 {
            "const idx i = first;".into()
        } else {
            format!("const idx i = first + u * {};", self.spacing)
        }
    }
}

/// A vector of a tile that is loaded from consecutive elements.
struct Loaded {
    to: String,
    from: String,
    dtype: DType,
    is_scratch: bool,
}

impl Loaded {
    /// Loads one element, `i`; past the end, element `j` in its place, which is the last one. The last element of scratch
    /// belongs to another thread, which may not have written it.
    fn single(&self, element: &str, i: &str) -> String {
        let Loaded { to, from, dtype, is_scratch } = self;
        let (t, size) = (memory_type(*dtype), dtype.size());
        if *is_scratch {
            format!("{to}{element} = {i} < n ? *(const {t}*)({from} + ({i}) * {size}) : ({t})0;")
        } else {
            format!("{to}{element} = *(const {t}*)({from} + j * {size});")
        }
    }
}

/// A value as an expression.
pub(super) fn name(kernel: &Kernel, v: Value) -> String {
    match kernel.inst(v) {
        Inst::Const(literal) => prim::constant(*literal),
        _ => v.to_string(),
    }
}

impl Unit<'_> {
    /// The instructions of a stage.
    pub(super) fn stage(&mut self, stage: usize, places: &Places<'_>) {
        let kernel = self.kernel;
        let groups = if places.only.is_some() { Vec::new() } else { rare(kernel, stage) };
        let behind: BTreeSet<Value> = groups.iter().flat_map(|g| &g.needed).copied().collect();
        let selects: BTreeMap<Value, &Rare> =
            groups.iter().flat_map(|g| g.selects.iter().map(move |s| (*s, g))).collect();
        for v in kernel.stages[stage].values() {
            if behind.contains(&v) {
                continue;
            }
            match selects.get(&v) {
                Some(group) if group.selects[0] == v => self.rare(group, places),
                Some(_) => {}
                None => self.inst(v, places),
            }
        }
    }

    /// The selections of a group, the work for them behind a branch.
    fn rare(&mut self, group: &Rare, places: &Places<'_>) {
        let kernel = self.kernel;
        for v in &group.selects {
            let other = kernel.inst(*v).operands()[2];
            self.text.line(&format!("{} {v} = {};", value_type(kernel.dtype(*v)), name(kernel, other)));
        }
        self.text.open(&format!("if ({})", name(kernel, group.condition)));
        for v in &group.needed {
            self.inst(*v, places);
        }
        for v in &group.selects {
            self.text.line(&format!("{v} = {};", name(kernel, kernel.inst(*v).operands()[1])));
        }
        self.text.close();
    }

    fn inst(&mut self, v: Value, places: &Places<'_>) {
        if places.only.is_some_and(|only| !only.contains(&v)) {
            return;
        }
        let kernel = self.kernel;
        let dtype = kernel.dtype(v);
        let from_memory = |element: String| if dtype == DType::Bool { format!("{element} != 0") } else { element };
        let value = match kernel.inst(v) {
            Inst::Const(_) => return,
            Inst::Arg(_) => unreachable!("a kernel has no arguments"),
            Inst::Param(n) => {
                let word = self.fields.word(Field::Param(*n));
                prim::from_word(dtype, &word)
            }
            Inst::Prim(prim, args) => {
                self.primitive(*prim, dtype, kernel.dtype(prim::operand_for_type(*prim, args)), args)
            }
            Inst::Load(n) => from_memory((places.load)(*n)),
            Inst::Store(n, value) => {
                if let Some(place) = (places.store)(*n) {
                    self.text.line(&format!("{place} = {};", name(kernel, *value)));
                }
                return;
            }
            Inst::ScratchLoad(slot) => from_memory((places.scratch)(*slot)),
            Inst::ScratchStore(slot, value) => {
                self.text.line(&format!("{} = {};", (places.scratch)(*slot), name(kernel, *value)));
                return;
            }
            Inst::Reduced(n) => (places.reduced)(*n),
        };
        self.text.line(&format!("const {} {v} = {value};", value_type(dtype)));
    }

    fn primitive(&mut self, prim: Prim, dtype: DType, from: DType, args: &[Value]) -> String {
        let args: Vec<String> = args.iter().map(|v| name(self.kernel, *v)).collect();
        prim::expression(&mut self.uses, prim, dtype, from, &args)
    }

    /// A device function of a body: its first arguments are the state, which it changes; the others come by value.
    pub(super) fn body_function(&mut self, function: &str, body: &Body, dtype: DType, args: u32) {
        let t = value_type(dtype);
        let state = body.results.len() as u32;
        let parameters: Vec<String> =
            (0..args).map(|n| if n < state { format!("{t} &x{n}") } else { format!("{t} x{n}") }).collect();
        let mut text = std::mem::take(&mut self.functions);
        text.open(&format!("static __device__ __forceinline__ void {function}({})", parameters.join(", ")));
        let results = prim::body_lines(&mut text, &mut self.uses, body);
        for (n, result) in results.iter().enumerate() {
            text.line(&format!("x{n} = {result};"));
        }
        text.close();
        self.functions = text;
    }

    /// Opens a loop over the vectors of a tile, unrolled; `close_tile` closes it. `i` is the first element of a vector.
    fn open_vectors(&mut self, tile: &Tile) {
        if tile.count > 1 {
            self.text.line("#pragma unroll");
            self.text.open(&format!("for (int u = 0; u < {}; u++)", tile.count));
        } else {
            self.text.open("");
        }
        self.text.line(&tile.index());
    }

    /// The element of a tile that a loop is at.
    fn element(prefix: &str, number: u32, tile: &Tile) -> String {
        let vector = if tile.count > 1 { "[u]" } else { "" };
        let element = if tile.vector > 1 { ".e[k]" } else { "" };
        format!("{prefix}{number}{vector}{element}")
    }

    /// Declares the elements of a tile: `x` for operands, `z` for scratch slots.
    fn declare(&mut self, prefix: &str, number: u32, dtype: DType, tile: &Tile) {
        let t = memory_type(dtype);
        let ty = if tile.vector > 1 {
            self.uses.vectors = true;
            format!("Vector<{t}, {}>", tile.vector)
        } else {
            t.to_owned()
        };
        let count = if tile.count > 1 { format!("[{}]", tile.count) } else { String::new() };
        self.text.line(&format!("{ty} {prefix}{number}{count};"));
    }

    /// What a loop stage reads or writes: its operands by role, and the scratch slots that it loads or stores.
    fn used(&self, stage: usize, role: Role) -> (Vec<u32>, Vec<u32>) {
        let kernel = self.kernel;
        let operands =
            (0..kernel.operands.len()).filter(|n| kernel.operands[*n].role == role && uses(kernel, stage, *n));
        let operands = operands.map(|n| n as u32).collect();
        let slot = |v: Value| match (kernel.inst(v), role) {
            (Inst::ScratchLoad(slot), Role::In) | (Inst::ScratchStore(slot, _), Role::Out) => Some(*slot),
            _ => None,
        };
        let slots: BTreeSet<u32> = kernel.stages[stage].values().filter_map(slot).collect();
        (operands, slots.into_iter().collect())
    }

    /// Loads what a loop stage reads of a tile whose first element is `first`, of `n`: operands relative to `{base}{operand}`,
    /// scratch relative to `q{slot}`.
    pub(super) fn load_tile(&mut self, stage: usize, tile: &Tile, base: &str) {
        let kernel = self.kernel;
        let (operands, slots) = self.used(stage, Role::In);
        let mut vectors: Vec<Loaded> = Vec::new();
        let mut singles: Vec<(u32, DType)> = Vec::new();
        for n in operands {
            let dtype = kernel.operands[n as usize].dtype;
            match self.access(n as usize) {
                Inner::Row => {
                    let t = memory_type(dtype);
                    self.text.line(&format!("const {t} x{n} = *(const {t}*){base}{n};"));
                    continue;
                }
                Inner::Unit => {
                    let (to, from) = (Self::vector_name("x", n, tile), format!("{base}{n}"));
                    vectors.push(Loaded { to, from, dtype, is_scratch: false });
                }
                Inner::Strided | Inner::Several => singles.push((n, dtype)),
            }
            self.declare("x", n, dtype, tile);
        }
        for n in slots {
            let dtype = kernel.scratch[n as usize];
            self.declare("z", n, dtype, tile);
            let (to, from) = (Self::vector_name("z", n, tile), format!("q{n}"));
            vectors.push(Loaded { to, from, dtype, is_scratch: true });
        }
        if vectors.is_empty() && singles.is_empty() {
            return;
        }
        self.open_vectors(tile);
        if tile.vector == 1 {
            self.text.line("const idx j = i < n ? i : n - 1;");
            for loaded in &vectors {
                self.text.line(&loaded.single("", "i"));
            }
        } else if !vectors.is_empty() {
            if tile.aligned {
                self.text.open(&format!("if (i + {} <= n)", tile.vector));
                for Loaded { to, from, dtype, .. } in &vectors {
                    let ty = format!("Vector<{}, {}>", memory_type(*dtype), tile.vector);
                    self.text.line(&format!("{to} = *(const {ty}*)({from} + i * {});", dtype.size()));
                }
                self.text.reopen("else");
            }
            self.open_elements(tile);
            self.text.line("const idx j = i + k < n ? i + k : n - 1;");
            for loaded in &vectors {
                self.text.line(&loaded.single(".e[k]", "i + k"));
            }
            self.text.close();
            if tile.aligned {
                self.text.close();
            }
        }
        if !singles.is_empty() {
            if tile.vector > 1 {
                self.open_elements(tile);
                self.text.line("const idx j = i + k < n ? i + k : n - 1;");
            }
            if singles.iter().any(|(n, _)| self.access(*n as usize) == Inner::Several) {
                self.indices(Group::Inner, "j", "i");
            }
            for (n, dtype) in &singles {
                let (t, to) = (memory_type(*dtype), Self::element("x", *n, tile));
                let offset = self.inner_offset(*n as usize, "j");
                self.text.line(&format!("{to} = *(const {t}*)({base}{n} + ({offset}));"));
            }
            if tile.vector > 1 {
                self.text.close();
            }
        }
        self.text.close();
    }

    /// A vector of a tile.
    fn vector_name(prefix: &str, number: u32, tile: &Tile) -> String {
        format!("{prefix}{number}{}", if tile.count > 1 { "[u]" } else { "" })
    }

    fn open_elements(&mut self, tile: &Tile) {
        self.text.line("#pragma unroll");
        self.text.open(&format!("for (int k = 0; k < {}; k++)", tile.vector));
    }

    /// The byte offset along the inner dimensions of an operand that does not step from element to element; its indices
    /// have been declared if there are several.
    fn inner_offset(&mut self, operand: usize, element: &str) -> String {
        match self.access(operand) {
            Inner::Several => self.offset(operand, Group::Inner, "i").unwrap_or_else(|| "0".into()),
            _ => {
                let stride = self.fields.word(Field::Stride(operand as u32, Group::Inner, 0));
                format!("{element} * (idx){stride}")
            }
        }
    }

    /// Runs a loop stage for each element of a tile that has been loaded. `then` is what else is done for an element,
    /// which is `i + k`, or `i` if vectors have one element.
    pub(super) fn compute_tile(
        &mut self,
        stage: usize,
        tile: &Tile,
        reduced: &dyn Fn(u32) -> String,
        then: impl FnOnce(&mut Self),
    ) {
        debug_assert_eq!(self.kernel.stages[stage].kind, StageKind::Loop);
        let (outputs, slots) = self.used(stage, Role::Out);
        for n in &outputs {
            self.declare("y", *n, self.kernel.operands[*n as usize].dtype, tile);
        }
        for n in &slots {
            self.declare("w", *n, self.kernel.scratch[*n as usize], tile);
        }
        self.open_vectors(tile);
        if tile.vector > 1 {
            self.open_elements(tile);
        }
        let rows: BTreeSet<u32> =
            (0..self.kernel.operands.len()).filter(|n| self.access(*n) == Inner::Row).map(|n| n as u32).collect();
        let (loaded, stored) = (self.used(stage, Role::In).1, &slots);
        let load = |n: u32| if rows.contains(&n) { format!("x{n}") } else { Self::element("x", n, tile) };
        let store = |n: u32| Some(Self::element("y", n, tile));
        // A slot is loaded or stored in a loop, never both.
        let scratch = |n: u32| Self::element(if stored.contains(&n) { "w" } else { "z" }, n, tile);
        debug_assert!(loaded.iter().all(|n| !stored.contains(n)));
        self.stage(stage, &Places { load: &load, store: &store, scratch: &scratch, reduced, only: None });
        then(self);
        if tile.vector > 1 {
            self.text.close();
        }
        self.text.close();
    }

    /// Stores what a loop stage has written of a tile; operands only if `live` holds, if it is given. Scratch is stored
    /// always: it is read again, whatever becomes of the results.
    pub(super) fn store_tile(&mut self, stage: usize, tile: &Tile, base: &str, live: Option<&str>) {
        let (outputs, slots) = self.used(stage, Role::Out);
        let Some(live) = live else { return self.store_elements(outputs, slots, tile, base) };
        self.store_elements(Vec::new(), slots, tile, base);
        if !outputs.is_empty() {
            self.text.open(&format!("if ({live})"));
            self.store_elements(outputs, Vec::new(), tile, base);
            self.text.close();
        }
    }

    fn store_elements(&mut self, outputs: Vec<u32>, slots: Vec<u32>, tile: &Tile, base: &str) {
        let kernel = self.kernel;
        if outputs.is_empty() && slots.is_empty() {
            return;
        }
        self.open_vectors(tile);
        if tile.vector == 1 {
            self.text.line("const idx j = i;");
        }
        let several = outputs.iter().any(|n| self.access(*n as usize) == Inner::Several);
        let mut vectors: Vec<(String, String, DType)> = Vec::new();
        let mut singles: Vec<u32> = Vec::new();
        for n in outputs {
            match self.access(n as usize) {
                Inner::Unit => {
                    let dtype = kernel.operands[n as usize].dtype;
                    vectors.push((Self::vector_name("y", n, tile), format!("{base}{n}"), dtype));
                }
                _ => singles.push(n),
            }
        }
        for n in slots {
            vectors.push((Self::vector_name("w", n, tile), format!("q{n}"), kernel.scratch[n as usize]));
        }
        let whole = tile.vector > 1 && tile.aligned && !vectors.is_empty();
        if whole {
            self.text.open(&format!("if (i + {} <= n)", tile.vector));
            for (from, to, dtype) in &vectors {
                let ty = format!("Vector<{}, {}>", memory_type(*dtype), tile.vector);
                self.text.line(&format!("*({ty}*)({to} + i * {}) = {from};", dtype.size()));
            }
            self.text.reopen("else");
        }
        if !vectors.is_empty() {
            self.open_stored(tile);
            for (from, to, dtype) in &vectors {
                let (t, element) = (memory_type(*dtype), if tile.vector > 1 { ".e[k]" } else { "" });
                self.text.line(&format!("*({t}*)({to} + j * {}) = {from}{element};", dtype.size()));
            }
            self.close_stored(tile);
        }
        if whole {
            self.text.close();
        }
        if !singles.is_empty() {
            self.open_stored(tile);
            if several {
                self.indices(Group::Inner, "j", "i");
            }
            for n in singles {
                let t = memory_type(kernel.operands[n as usize].dtype);
                let from = Self::element("y", n, tile);
                let offset = match self.access(n as usize) {
                    Inner::Row => "0".to_owned(),
                    _ => self.inner_offset(n as usize, "j"),
                };
                self.text.line(&format!("*({t}*)({base}{n} + ({offset})) = {from};"));
            }
            self.close_stored(tile);
        }
        self.text.close();
    }

    /// Opens a loop over the elements of a vector that exist; `j` is the element.
    fn open_stored(&mut self, tile: &Tile) {
        if tile.vector > 1 {
            self.open_elements(tile);
            self.text.line("const idx j = i + k;");
        }
        self.text.open("if (j < n)");
    }

    fn close_stored(&mut self, tile: &Tile) {
        self.text.close();
        if tile.vector > 1 {
            self.text.close();
        }
    }

    /// A row stage whose row-level operands are at `{base}{operand}`; `stores` is a condition under which it stores, if it does.
    pub(super) fn row_stage(
        &mut self,
        stage: usize,
        base: &str,
        reduced: &dyn Fn(u32) -> String,
        stores: Option<&str>,
    ) {
        let kernel = self.kernel;
        let load = |n: u32| format!("*(const {}*){base}{n}", memory_type(kernel.operands[n as usize].dtype));
        let store = |n: u32| {
            let place = format!("*({}*){base}{n}", memory_type(kernel.operands[n as usize].dtype));
            match stores {
                Some("true") => Some(place),
                Some(condition) => Some(format!("if ({condition}) {place}")),
                None => None,
            }
        };
        let scratch = |_: u32| unreachable!("scratch belongs to loops");
        self.stage(stage, &Places { load: &load, store: &store, scratch: &scratch, reduced, only: None });
    }

    /// Some instructions of a row stage, none of which stores.
    pub(super) fn row_stage_only(
        &mut self,
        stage: usize,
        base: &str,
        reduced: &dyn Fn(u32) -> String,
        only: &BTreeSet<Value>,
    ) {
        let kernel = self.kernel;
        let load = |n: u32| format!("*(const {}*){base}{n}", memory_type(kernel.operands[n as usize].dtype));
        let scratch = |_: u32| unreachable!("scratch belongs to loops");
        self.stage(stage, &Places { load: &load, store: &|_| None, scratch: &scratch, reduced, only: Some(only) });
    }
}
