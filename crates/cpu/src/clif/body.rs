//! The bodies of loops and row stages: where operands lie, what is the same for all elements, and the instructions.

use super::scalar::scalar_type;
use super::vector::{Lanes, Vector, part_count, vector_type};
use super::{Analysis, Gen, field, operands_of};
use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, types};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::rare::Rare;
use numfuse_core::kernel::{Access, Body, Inst, Kernel, Prim, Value};
use numfuse_core::literal::Literal;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

/// A value that is the same for all elements of a loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Uniform {
    /// Known now.
    Literal(Literal),
    /// Known when the kernel runs.
    Scalar(ir::Value),
}

/// Where the elements of a memory operand are, for one row.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The first inner element.
    base: ir::Value,
    /// Bytes to the next one; none if they are adjacent.
    stride: Option<ir::Value>,
}

/// A loop stage at one row, ready to emit its body.
pub(super) struct Loop<'k> {
    pub kernel: &'k Kernel,
    pub stage: usize,
    operands: FxHashMap<u32, Place>,
    scratch: FxHashMap<u32, ir::Value>,
    uniforms: FxHashMap<Value, Uniform>,
    splats: FxHashMap<Value, Vector>,
    /// Work that the vector body jumps over if no lane needs it, by the first of its selections.
    rare: FxHashMap<Value, Rare>,
    /// The instructions that are emitted with that work.
    deferred: FxHashSet<Value>,
    /// Column kernels: the states of each reduction's result, for the last stage.
    pub reduced: Vec<ir::Value>,
}

/// The row values known at a place in the code.
pub(super) type RowValues = FxHashMap<Value, ir::Value>;

impl<'k> Loop<'k> {
    /// Emits what a loop needs before it begins. There is at least one element. `known` are the row values that are at
    /// hand; others come from the frame.
    pub fn new(
        g: &mut Gen<'_>,
        kernel: &'k Kernel,
        analysis: &Analysis,
        stage: usize,
        row: ir::Value,
        known: &RowValues,
    ) -> Loop<'k> {
        let mut it = Loop {
            kernel,
            stage,
            operands: FxHashMap::default(),
            scratch: FxHashMap::default(),
            uniforms: FxHashMap::default(),
            splats: FxHashMap::default(),
            rare: FxHashMap::default(),
            deferred: FxHashSet::default(),
            reduced: Vec::new(),
        };
        let range = kernel.stages[stage].start..kernel.stages[stage].end;
        let outside = |v: Value| !range.contains(&v.0);
        let external = |g: &mut Gen<'_>, it: &mut Self, v: Value| {
            if outside(v) && !it.uniforms.contains_key(&v) {
                let uniform = g.row_value(kernel, analysis, v, known);
                it.uniforms.insert(v, uniform);
            }
        };
        for v in kernel.stages[stage].values() {
            for operand in operands_of(kernel.inst(v)) {
                external(g, &mut it, *operand);
            }
        }
        for (_, reduction) in kernel.reductions_of(stage) {
            external(g, &mut it, reduction.input);
        }
        for v in kernel.stages[stage].values() {
            let dtype = kernel.dtype(v);
            match kernel.inst(v) {
                Inst::Const(literal) => {
                    it.uniforms.insert(v, Uniform::Literal(*literal));
                }
                Inst::Param(n) => {
                    let x = g.param(*n, dtype);
                    it.uniforms.insert(v, Uniform::Scalar(x));
                }
                Inst::Load(n) | Inst::Store(n, _) => {
                    let base = g.row_address(*n as usize, row);
                    match kernel.operands[*n as usize].access {
                        Access::Broadcast => {
                            let x = g.load_scalar(dtype, base, 0);
                            it.uniforms.insert(v, Uniform::Scalar(x));
                        }
                        Access::Unit => {
                            it.operands.insert(*n, Place { base, stride: None });
                        }
                        Access::Strided => {
                            let stride = g.inner_stride(*n as usize);
                            it.operands.insert(*n, Place { base, stride: Some(stride) });
                        }
                    }
                }
                Inst::Prim(prim, args) if args.iter().all(|a| it.uniforms.contains_key(a)) => {
                    let args: SmallVec<[ir::Value; 3]> = args.iter().map(|a| it.uniform_scalar(g, *a)).collect();
                    let x = g.scalar_prim(*prim, dtype, operand_dtype(kernel, v), &args);
                    it.uniforms.insert(v, Uniform::Scalar(x));
                }
                Inst::ScratchLoad(n) | Inst::ScratchStore(n, _) if !it.scratch.contains_key(n) => {
                    let before: usize = kernel.scratch[..*n as usize].iter().map(|d| d.size()).sum();
                    let scratch = field!(g, scratch);
                    let len = field!(g, scratch_len);
                    let offset = g.b.ins().imul_imm_u(len, before as i64);
                    let base = g.b.ins().iadd(scratch, offset);
                    it.scratch.insert(*n, base);
                }
                _ => {}
            }
        }
        for mut rare in analysis.rare[stage].iter().cloned() {
            if rare.selects.iter().any(|s| it.uniforms.contains_key(s)) || it.uniforms.contains_key(&rare.condition) {
                continue;
            }
            rare.needed.retain(|v| !it.uniforms.contains_key(v));
            it.deferred.extend(rare.needed.iter().chain(&rare.selects));
            it.rare.insert(rare.selects[0], rare);
        }
        it
    }

    fn uniform_scalar(&self, g: &mut Gen<'_>, v: Value) -> ir::Value {
        match self.uniforms.get(&v) {
            Some(Uniform::Scalar(x)) => *x,
            Some(Uniform::Literal(literal)) => g.constant(*literal),
            None => g.unsupported(format!("{v} is not known here"), scalar_type(self.kernel.dtype(v))),
        }
    }

    /// Emits the vectors of uniform values that the vector body will use.
    pub fn splat_uniforms(&mut self, g: &mut Gen<'_>) {
        let kernel = self.kernel;
        let mut wanted = Vec::new();
        let needed: FxHashSet<Value> = self.rare.values().flat_map(|rare| rare.needed.iter().copied()).collect();
        let everywhere = |v: &Value| !self.uniforms.contains_key(v) && !needed.contains(v);
        for v in kernel.stages[self.stage].values().filter(everywhere) {
            let inst = kernel.inst(v);
            let shift = matches!(inst, Inst::Prim(Prim::Shl | Prim::Shr, _));
            wanted.extend(operands_of(inst).iter().enumerate().filter(|(i, _)| !shift || *i == 0).map(|(_, v)| *v));
        }
        wanted.extend(kernel.reductions_of(self.stage).map(|(_, r)| r.input));
        for v in wanted {
            if self.splats.contains_key(&v) {
                continue;
            }
            let splat = match self.uniforms.get(&v) {
                None => continue,
                Some(Uniform::Literal(literal)) => g.splat_constant(*literal),
                Some(Uniform::Scalar(x)) => g.splat(kernel.dtype(v), *x),
            };
            self.splats.insert(v, splat);
        }
    }

    /// Emits the body for the elements `index .. index + lanes`, whose values it returns.
    pub fn vector_body(&self, g: &mut Gen<'_>, index: ir::Value, lanes: usize) -> VectorValues {
        let kernel = self.kernel;
        let stage = &kernel.stages[self.stage];
        let mut values = VectorValues { start: stage.start, values: vec![None; stage.values().count()] };
        let mut offsets = Offsets { index, scaled: [None; 4] };
        for v in stage.values() {
            if let Some(rare) = self.rare.get(&v) {
                self.rare_vectors(g, &mut values, rare, lanes);
            }
            let dtype = kernel.dtype(v);
            let vector = match kernel.inst(v) {
                _ if self.uniforms.contains_key(&v) || self.deferred.contains(&v) => continue,
                Inst::Prim(..) => Some(self.vector(g, &values, v, lanes)),
                Inst::Load(n) => {
                    let Place { base, stride } = self.operands[n];
                    Some(match stride {
                        None => {
                            let address = offsets.address(g, base, dtype.size());
                            g.load_vector(dtype, lanes, address, 0)
                        }
                        Some(stride) => g.load_strided(dtype, lanes, base, stride, index),
                    })
                }
                Inst::Store(n, x) => {
                    let x = self.lanes(g, &values, *x).vector;
                    let Place { base, stride } = self.operands[n];
                    match stride {
                        None => {
                            let address = offsets.address(g, base, dtype.size());
                            g.store_vector(dtype, lanes, &x, address, 0);
                        }
                        Some(stride) => g.store_strided(dtype, lanes, &x, base, stride, index),
                    }
                    None
                }
                Inst::ScratchLoad(n) => {
                    let address = offsets.address(g, self.scratch[n], dtype.size());
                    Some(g.load_vector(dtype, lanes, address, 0))
                }
                Inst::ScratchStore(n, x) => {
                    let x = self.lanes(g, &values, *x).vector;
                    let address = offsets.address(g, self.scratch[n], dtype.size());
                    g.store_vector(dtype, lanes, &x, address, 0);
                    None
                }
                Inst::Reduced(n) => {
                    let address = self.reduced_address(g, &mut offsets, *n, dtype);
                    Some(g.load_vector(dtype, lanes, address, 0))
                }
                Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) => None,
            };
            values.set(v, vector);
        }
        values
    }

    /// Emits a primitive.
    fn vector(&self, g: &mut Gen<'_>, values: &VectorValues, v: Value, lanes: usize) -> Vector {
        let Inst::Prim(prim, args) = self.kernel.inst(v) else {
            let zero = Literal::from_bits(self.kernel.dtype(v), 0);
            g.unsupported(format!("{v} is not a primitive"), types::I64);
            return g.splat_constant(zero);
        };
        let args: SmallVec<[Lanes; 3]> = args.iter().map(|a| self.lanes(g, values, *a)).collect();
        let args: SmallVec<[&Lanes; 3]> = args.iter().collect();
        g.vector_prim(*prim, self.kernel.dtype(v), operand_dtype(self.kernel, v), lanes, &args)
    }

    /// Emits rare work and its selections, behind a jump that is taken unless some lane needs it.
    fn rare_vectors(&self, g: &mut Gen<'_>, values: &mut VectorValues, rare: &Rare, lanes: usize) {
        let kernel = self.kernel;
        let condition = self.lanes(g, values, rare.condition).vector;
        let any = g.any_lane(&condition);
        let mut otherwise: Vec<ir::BlockArg> = Vec::new();
        for select in &rare.selects {
            let dtype = kernel.dtype(*select);
            let Some(second) = operands_of(kernel.inst(*select)).get(2) else { continue };
            let second = self.lanes(g, values, *second).vector;
            for k in 0..part_count(lanes, dtype.size()) {
                otherwise.push(g.reinterpret(vector_type(dtype), second.part(k)).into());
            }
        }
        let (inside, after) = (g.b.create_block(), g.b.create_block());
        g.b.set_cold_block(inside);
        g.b.ins().brif(any, inside, &[], after, &otherwise);
        g.b.switch_to_block(inside);
        for v in &rare.needed {
            let vector = self.vector(g, values, *v, lanes);
            values.set(*v, Some(vector));
        }
        let mut selected: Vec<ir::BlockArg> = Vec::new();
        for select in &rare.selects {
            let vector = self.vector(g, values, *select, lanes);
            let ty = vector_type(kernel.dtype(*select));
            selected.extend(vector.parts.iter().map(|part| ir::BlockArg::from(g.reinterpret(ty, *part))));
        }
        g.b.ins().jump(after, &selected);
        g.b.switch_to_block(after);
        for select in &rare.selects {
            let dtype = kernel.dtype(*select);
            let parts = (0..part_count(lanes, dtype.size()))
                .map(|_| g.b.append_block_param(after, vector_type(dtype)))
                .collect();
            values.set(*select, Some(Vector { parts, width: dtype.size(), same: false }));
        }
    }

    /// Emits the body for one element, whose values it returns.
    pub fn scalar_body(&self, g: &mut Gen<'_>, index: ir::Value) -> ScalarValues {
        let kernel = self.kernel;
        let stage = &kernel.stages[self.stage];
        let mut values = ScalarValues { start: stage.start, values: Vec::with_capacity(stage.values().count()) };
        let mut offsets = Offsets { index, scaled: [None; 4] };
        for v in stage.values() {
            let dtype = kernel.dtype(v);
            let value = match kernel.inst(v) {
                _ if self.uniforms.contains_key(&v) => None,
                Inst::Prim(prim, args) => {
                    let args: SmallVec<[ir::Value; 3]> = args.iter().map(|a| self.scalar(g, &values, *a)).collect();
                    Some(g.scalar_prim(*prim, dtype, operand_dtype(kernel, v), &args))
                }
                Inst::Load(n) => {
                    let address = self.element(g, &mut offsets, *n, dtype);
                    Some(g.load_scalar(dtype, address, 0))
                }
                Inst::Store(n, x) => {
                    let x = self.scalar(g, &values, *x);
                    let address = self.element(g, &mut offsets, *n, dtype);
                    g.store_scalar(x, address);
                    None
                }
                Inst::ScratchLoad(n) => {
                    let address = offsets.address(g, self.scratch[n], dtype.size());
                    Some(g.load_scalar(dtype, address, 0))
                }
                Inst::ScratchStore(n, x) => {
                    let x = self.scalar(g, &values, *x);
                    let address = offsets.address(g, self.scratch[n], dtype.size());
                    g.store_scalar(x, address);
                    None
                }
                Inst::Reduced(n) => {
                    let address = self.reduced_address(g, &mut offsets, *n, dtype);
                    Some(g.load_scalar(dtype, address, 0))
                }
                Inst::Const(_) | Inst::Param(_) | Inst::Arg(_) => None,
            };
            values.values.push(value);
        }
        values
    }

    fn element(&self, g: &mut Gen<'_>, offsets: &mut Offsets, operand: u32, dtype: DType) -> ir::Value {
        let Place { base, stride } = self.operands[&operand];
        match stride {
            None => offsets.address(g, base, dtype.size()),
            Some(stride) => {
                let offset = g.b.ins().imul(offsets.index, stride);
                g.b.ins().iadd(base, offset)
            }
        }
    }

    fn reduced_address(&self, g: &mut Gen<'_>, offsets: &mut Offsets, n: u32, dtype: DType) -> ir::Value {
        match self.reduced.get(n as usize) {
            Some(base) => offsets.address(g, *base, dtype.size()),
            None => g.unsupported(format!("r{n} is not known here"), types::I64),
        }
    }

    /// The lanes of a value of the vector body, or of a uniform one.
    pub fn lanes(&self, g: &mut Gen<'_>, values: &VectorValues, v: Value) -> Lanes {
        if let Some(vector) = values.get(v) {
            return Lanes::from(vector.clone());
        }
        let uniform = self.uniforms.get(&v).copied();
        let vector = match (self.splats.get(&v), uniform) {
            (Some(splat), _) => splat.clone(),
            // What only rare work uses is not worth a register in the loop; the count of a shift is used as a scalar.
            (None, Some(Uniform::Literal(literal))) => g.splat_constant(literal),
            (None, Some(Uniform::Scalar(x))) => g.splat(self.kernel.dtype(v), x),
            (None, None) => Vector { parts: SmallVec::new(), width: self.kernel.dtype(v).size(), same: true },
        };
        match uniform {
            Some(Uniform::Literal(literal)) => Lanes { vector, scalar: None, literal: Some(literal) },
            Some(Uniform::Scalar(x)) => Lanes { vector, scalar: Some(x), literal: None },
            None => {
                let zero = Literal::from_bits(self.kernel.dtype(v), 0);
                g.unsupported(format!("{v} is not known here"), types::I64);
                Lanes { vector: g.splat_constant(zero), scalar: None, literal: Some(zero) }
            }
        }
    }

    /// A value of the scalar body, or a uniform one.
    pub fn scalar(&self, g: &mut Gen<'_>, values: &ScalarValues, v: Value) -> ir::Value {
        match values.get(v) {
            Some(x) => x,
            None => self.uniform_scalar(g, v),
        }
    }
}

/// The values of a vector body.
pub(super) struct VectorValues {
    start: u32,
    values: Vec<Option<Vector>>,
}

impl VectorValues {
    fn set(&mut self, v: Value, vector: Option<Vector>) {
        if let Some(slot) = v.0.checked_sub(self.start).and_then(|i| self.values.get_mut(i as usize)) {
            *slot = vector;
        }
    }

    fn get(&self, v: Value) -> Option<&Vector> {
        self.values.get(v.0.checked_sub(self.start)? as usize)?.as_ref()
    }
}

/// The values of a scalar body.
pub(super) struct ScalarValues {
    start: u32,
    values: Vec<Option<ir::Value>>,
}

impl ScalarValues {
    fn get(&self, v: Value) -> Option<ir::Value> {
        *self.values.get(v.0.checked_sub(self.start)? as usize)?
    }
}

/// The index of an element in bytes, for each element size.
struct Offsets {
    index: ir::Value,
    scaled: [Option<ir::Value>; 4],
}

impl Offsets {
    fn address(&mut self, g: &mut Gen<'_>, base: ir::Value, size: usize) -> ir::Value {
        let shift = size.trailing_zeros();
        if shift == 0 {
            return g.b.ins().iadd(base, self.index);
        }
        let index = self.index;
        let scaled = *self.scaled[shift as usize].get_or_insert_with(|| g.b.ins().ishl_imm_u(index, i64::from(shift)));
        g.b.ins().iadd(base, scaled)
    }
}

/// The dtype that decides which form of a primitive is meant: that of its first operand, or of the values selected.
fn operand_dtype(kernel: &Kernel, v: Value) -> DType {
    match kernel.inst(v) {
        Inst::Prim(Prim::Select, _) => kernel.dtype(v),
        Inst::Prim(_, args) => kernel.dtype(args[0]),
        _ => kernel.dtype(v),
    }
}

impl Gen<'_> {
    /// A value of a row stage that a later stage uses.
    pub(super) fn row_value(&mut self, kernel: &Kernel, analysis: &Analysis, v: Value, known: &RowValues) -> Uniform {
        let dtype = kernel.dtype(v);
        match kernel.inst(v) {
            Inst::Const(literal) => Uniform::Literal(*literal),
            Inst::Param(n) => Uniform::Scalar(self.param(*n, dtype)),
            _ => Uniform::Scalar(match (known.get(&v), analysis.frame_slots[v.index()]) {
                (Some(x), _) => *x,
                (None, Some(slot)) => {
                    let frame = field!(self, frame);
                    self.b.ins().load(scalar_type(dtype), MemFlagsData::trusted(), frame, 8 * slot as i32)
                }
                (None, None) => self.unsupported(format!("{v} has no place"), scalar_type(dtype)),
            }),
        }
    }

    /// Emits a row stage at a row; returns its values. Results of reductions come from the call's states.
    pub(super) fn row_stage(
        &mut self,
        kernel: &Kernel,
        analysis: &Analysis,
        stage: usize,
        row: ir::Value,
    ) -> RowValues {
        let mut values = RowValues::default();
        for v in kernel.stages[stage].values() {
            let dtype = kernel.dtype(v);
            let x = match kernel.inst(v) {
                // Made again where they are used.
                Inst::Const(_) | Inst::Param(_) => continue,
                Inst::Prim(..) => self.row_prim(kernel, analysis, v, &mut values),
                Inst::Load(n) => {
                    let address = self.row_address(*n as usize, row);
                    self.load_scalar(dtype, address, 0)
                }
                Inst::Store(n, x) => {
                    let x = self.row_operand(kernel, analysis, *x, &mut values);
                    let address = self.row_address(*n as usize, row);
                    self.store_scalar(x, address);
                    continue;
                }
                Inst::Reduced(n) => {
                    let reduction = &kernel.reductions[*n as usize];
                    let component = analysis.components[*n as usize] + reduction.reducer.result();
                    let states = field!(self, states);
                    let stride = field!(self, state_stride);
                    let offset = self.b.ins().imul_imm_u(stride, component as i64);
                    let address = self.b.ins().iadd(states, offset);
                    self.load_scalar(dtype, address, 0)
                }
                Inst::ScratchLoad(_) | Inst::ScratchStore(..) | Inst::Arg(_) => {
                    self.unsupported(format!("{v} in a row stage"), scalar_type(dtype))
                }
            };
            values.insert(v, x);
        }
        values
    }

    /// Emits a primitive of a row stage.
    pub(super) fn row_prim(
        &mut self,
        kernel: &Kernel,
        analysis: &Analysis,
        v: Value,
        values: &mut RowValues,
    ) -> ir::Value {
        let Inst::Prim(prim, args) = kernel.inst(v) else {
            return self.unsupported(format!("{v} is not a primitive"), scalar_type(kernel.dtype(v)));
        };
        let args: SmallVec<[ir::Value; 3]> =
            args.iter().map(|a| self.row_operand(kernel, analysis, *a, values)).collect();
        self.scalar_prim(*prim, kernel.dtype(v), operand_dtype(kernel, v), &args)
    }

    fn row_operand(&mut self, kernel: &Kernel, analysis: &Analysis, v: Value, values: &mut RowValues) -> ir::Value {
        match self.row_value(kernel, analysis, v, values) {
            Uniform::Literal(literal) => self.constant(literal),
            Uniform::Scalar(x) => {
                values.entry(v).or_insert(x);
                x
            }
        }
    }

    /// Writes the values of a row stage that other stages use to the frame.
    pub(super) fn store_frame(&mut self, kernel: &Kernel, analysis: &Analysis, stage: usize, values: &RowValues) {
        for v in kernel.stages[stage].values() {
            if let (Some(slot), Some(x)) = (analysis.frame_slots[v.index()], values.get(&v)) {
                let frame = field!(self, frame);
                self.b.ins().store(MemFlagsData::trusted(), *x, frame, 8 * slot as i32);
            }
        }
    }

    /// Loads an element; bools become 0 or 1.
    pub(crate) fn load_scalar(&mut self, dtype: DType, address: ir::Value, offset: i32) -> ir::Value {
        let flags = MemFlagsData::new().with_notrap();
        let x = self.b.ins().load(scalar_type(dtype), flags, address, offset);
        if dtype == DType::Bool { self.scalar_cast(DType::U8, DType::Bool, x) } else { x }
    }

    /// Stores an element.
    pub(crate) fn store_scalar(&mut self, x: ir::Value, address: ir::Value) {
        self.b.ins().store(MemFlagsData::new().with_notrap(), x, address, 0);
    }

    /// Loads elements `index ..` of a strided operand.
    fn load_strided(
        &mut self,
        dtype: DType,
        lanes: usize,
        base: ir::Value,
        stride: ir::Value,
        index: ir::Value,
    ) -> Vector {
        // Bools are gathered as bytes and compared as loaded ones are.
        let memory = if dtype == DType::Bool { DType::U8 } else { dtype };
        let offset = self.b.ins().imul(index, stride);
        let mut address = self.b.ins().iadd(base, offset);
        let mut scalars = Vec::with_capacity(lanes);
        for lane in 0..lanes {
            if lane > 0 {
                address = self.b.ins().iadd(address, stride);
            }
            scalars.push(self.load_scalar(memory, address, 0));
        }
        let vector = self.gather(memory, &scalars);
        if dtype == DType::Bool {
            let bytes = Lanes::from(vector);
            return self.vector_prim(Prim::Cast, DType::Bool, DType::U8, lanes, &[&bytes]);
        }
        vector
    }

    /// Stores elements `index ..` of a strided operand.
    fn store_strided(
        &mut self,
        dtype: DType,
        lanes: usize,
        x: &Vector,
        base: ir::Value,
        stride: ir::Value,
        index: ir::Value,
    ) {
        let offset = self.b.ins().imul(index, stride);
        let mut address = self.b.ins().iadd(base, offset);
        for lane in 0..lanes {
            if lane > 0 {
                address = self.b.ins().iadd(address, stride);
            }
            let scalar = self.lane(dtype, x, lane);
            self.store_scalar(scalar, address);
        }
    }

    /// Emits a reducer's body on vectors.
    pub(super) fn vector_inline(&mut self, body: &Body, args: &[Lanes], lanes: usize) -> SmallVec<[Vector; 2]> {
        let mut values: Vec<Lanes> = Vec::with_capacity(body.insts.len());
        for (i, data) in body.insts.iter().enumerate() {
            let x = match &data.inst {
                Inst::Arg(n) => args[*n as usize].clone(),
                Inst::Const(literal) => {
                    Lanes { vector: self.splat_constant(*literal), scalar: None, literal: Some(*literal) }
                }
                Inst::Prim(prim, operands) => {
                    let operand = body_operand(body, i);
                    let operands: SmallVec<[&Lanes; 3]> = operands.iter().map(|v| &values[v.index()]).collect();
                    if operands.iter().all(|x| x.scalar.is_some() || x.literal.is_some()) {
                        let scalars: SmallVec<[ir::Value; 3]> = operands
                            .iter()
                            .map(|x| match (x.scalar, x.literal) {
                                (None, Some(literal)) => self.constant(literal),
                                (scalar, _) => scalar.unwrap_or(self.call),
                            })
                            .collect();
                        let x = self.scalar_prim(*prim, data.dtype, operand, &scalars);
                        Lanes { vector: self.splat(data.dtype, x), scalar: Some(x), literal: None }
                    } else {
                        Lanes::from(self.vector_prim(*prim, data.dtype, operand, lanes, &operands))
                    }
                }
                _ => {
                    self.unsupported(format!("v{i} of a body"), types::I64);
                    Lanes::from(self.splat_constant(Literal::from_bits(data.dtype, 0)))
                }
            };
            values.push(x);
        }
        body.results.iter().map(|v| values[v.index()].vector.clone()).collect()
    }

    /// Emits a reducer's body on scalars.
    pub(super) fn scalar_inline(&mut self, body: &Body, args: &[ir::Value]) -> SmallVec<[ir::Value; 2]> {
        let mut values: Vec<ir::Value> = Vec::with_capacity(body.insts.len());
        for (i, data) in body.insts.iter().enumerate() {
            let x = match &data.inst {
                Inst::Arg(n) => args[*n as usize],
                Inst::Const(literal) => self.constant(*literal),
                Inst::Prim(prim, operands) => {
                    let operands: SmallVec<[ir::Value; 3]> = operands.iter().map(|v| values[v.index()]).collect();
                    self.scalar_prim(*prim, data.dtype, body_operand(body, i), &operands)
                }
                _ => self.unsupported(format!("v{i} of a body"), scalar_type(data.dtype)),
            };
            values.push(x);
        }
        body.results.iter().map(|v| values[v.index()]).collect()
    }
}

fn body_operand(body: &Body, inst: usize) -> DType {
    match &body.insts[inst].inst {
        Inst::Prim(Prim::Select, _) => body.insts[inst].dtype,
        Inst::Prim(_, args) => body.insts[args[0].index()].dtype,
        _ => body.insts[inst].dtype,
    }
}
