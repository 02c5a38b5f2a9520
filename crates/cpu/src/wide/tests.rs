//! The bytes of instructions against a decoder that nobody here wrote (iced-x86).
//!
//! [`Asm`] notes what each instruction is to be; the decoder says what its bytes are. The notes are encoding fields, so
//! agreement means that every field is where it belongs; which operation the fields name is for people to read in the
//! golden file `tests/wide_instructions.txt`, and for the differential tests to show. In order: every vector instruction
//! that kernels contain, on its own with all kinds of operands; the integer methods against their text; whole kernels;
//! the instruction sets; and that the checks themselves notice what is wrong.

#[path = "../../tests/common/kernels.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod kernels;
#[path = "../../../../tests/support/random_call.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod random_call;
#[path = "../../../../tests/support/random_graph.rs"]
mod random_graph;
#[path = "../../../../tests/support/run_plan.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod run_plan;

use super::asm::{Alu, Asked, Asm, Cond, Gpr, Isa, Len, Masking, Mem, Op, PLAIN, PoolAt, RAX, Rm, Shift, op, op_w};
use crate::clif::Analysis;
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, EncodingKind, Formatter, Instruction, IntelFormatter, MandatoryPrefix,
    MemorySizeOptions, Mnemonic, NumberBase, OpCodeOperandKind as Kind, OpCodeTableKind, OpKind, Register,
    RoundingControl,
};
use kernels::{Case, Rng, apply, forms, random_case};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Prim, Role, StageKind, Value};
use numfuse_core::literal::Literal;
use random_call::{planned, random_call};
use std::collections::{BTreeMap, BTreeSet};

const ISAS: [Isa; 2] = [Isa::Avx2, Isa::Avx512];

/// Code with what it is to be.
struct Traced {
    asm_len: usize,
    bytes: Vec<u8>,
    /// Begin, end, and what is asked for.
    asked: Vec<(usize, usize, Asked)>,
    /// For each instruction where it jumps to.
    targets: Vec<Option<usize>>,
}

impl Traced {
    fn new(asm: Asm) -> Traced {
        let asm_len = asm.code_len();
        let ends = asm.asked.iter().skip(1).map(|(at, _)| *at).chain([asm_len]);
        let asked: Vec<_> = asm.asked.iter().zip(ends).map(|((at, asked), end)| (*at, end, asked.clone())).collect();
        assert!(asked.first().is_none_or(|first| first.0 == 0), "bytes before the first instruction");
        let targets = asked.iter().map(|(.., asked)| match asked {
            Asked::Jump(label) => Some(asm.place_of(*label).expect("a jump to a label that is nowhere")),
            _ => None,
        });
        let targets = targets.collect();
        Traced { asm_len, bytes: asm.finish(), asked, targets }
    }

    fn pool(&self) -> usize {
        self.asm_len.next_multiple_of(64)
    }

    /// Checks every instruction; calls `seen` with it and its decoded form.
    fn check(&self, isa: Isa, mut seen: impl FnMut(&Asked, &Instruction)) {
        let begins: BTreeSet<usize> = self.asked.iter().map(|a| a.0).chain([self.asm_len]).collect();
        for ((begin, end, asked), target) in self.asked.iter().zip(&self.targets) {
            let bytes = &self.bytes[*begin..*end];
            let instruction = check(bytes, *begin, asked, self.pool())
                .and_then(|i| instruction_set(&i, isa).map(|()| i))
                .unwrap_or_else(|e| panic!("at {begin:#x}, {bytes:02x?}: {e}\n{asked:?}"));
            if let Some(target) = target {
                assert_eq!(instruction.near_branch_target(), *target as u64, "a jump goes elsewhere");
                assert!(begins.contains(target), "a jump into an instruction");
            }
            if instruction.is_ip_rel_memory_operand() {
                let at = instruction.ip_rel_memory_address() as usize;
                let end = at + instruction.memory_size().size();
                assert!(at >= self.pool() && end <= self.bytes.len(), "{instruction} reads beyond the constants");
            }
            seen(asked, &instruction);
        }
    }
}

fn decode(bytes: &[u8], at: usize) -> Result<Instruction, String> {
    let instruction = Decoder::with_ip(64, bytes, at as u64, DecoderOptions::NONE).decode();
    match instruction.is_invalid() {
        true => Err("no instruction".into()),
        false if instruction.len() != bytes.len() => Err(format!("{instruction} has {} bytes", instruction.len())),
        false => Ok(instruction),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?} instead of {wanted:?}")) }
}

/// The instruction that the bytes are, if it is the one that was asked for.
fn check(bytes: &[u8], at: usize, asked: &Asked, pool: usize) -> Result<Instruction, String> {
    let i = decode(bytes, at)?;
    match asked {
        Asked::Fixed | Asked::Jump(_) => {}
        Asked::Legacy { opcode, wide, reg, rm } => {
            same("encoding", i.encoding(), EncodingKind::Legacy)?;
            let info = i.op_code();
            same("table", info.table() == OpCodeTableKind::T0F, opcode.len() == 2)?;
            same("opcode", info.op_code(), u32::from(opcode[opcode.len() - 1]))?;
            if *wide {
                same("size", info.operand_size(), 64)?;
            }
            operands(&i, *reg, 0, *rm, None, pool)?;
        }
        Asked::Vector { evex, op, len, reg, vvvv, rm, imm, how, memory } => {
            let info = i.op_code();
            same("encoding", i.encoding(), if *evex { EncodingKind::EVEX } else { EncodingKind::VEX })?;
            let table = [OpCodeTableKind::T0F, OpCodeTableKind::T0F38, OpCodeTableKind::T0F3A];
            same("table", info.table(), table[usize::from(op.map) - 1])?;
            let prefix = [MandatoryPrefix::PNP, MandatoryPrefix::P66, MandatoryPrefix::PF3, MandatoryPrefix::PF2];
            same("prefix", info.mandatory_prefix(), prefix[usize::from(op.prefix)])?;
            same("opcode", info.op_code(), u32::from(op.opcode))?;
            if !info.is_wig() {
                same("W", info.w(), u32::from(if *evex { op.evex_w } else { op.vex_w }))?;
            }
            if !info.is_lig() {
                same("length", info.l(), if *evex { *len as u32 } else { u32::from(*len != Len::L128) })?;
            }
            same("mask", i.op_mask(), if how.mask == 0 { Register::None } else { Register::K0 + u32::from(how.mask) })?;
            same("zeroing", i.zeroing_masking(), how.zero)?;
            same("broadcast", i.is_broadcast(), how.broadcast)?;
            if *memory > 0 && !matches!(rm, Rm::Reg(_)) {
                // EVEX counts short displacements in them; VEX may read less than there is.
                let size = i.memory_size().size();
                same("bytes in memory", size, if *evex { *memory } else { size.min(*memory) })?;
            }
            let rounding = (i.rounding_control(), i.suppress_all_exceptions());
            same("rounding", rounding, (RoundingControl::None, false))?;
            operands(&i, *reg, *vvvv, *rm, *imm, pool)?;
        }
    }
    Ok(i)
}

/// Holds the decoded operands against the fields that they come from.
fn operands(i: &Instruction, reg: u8, vvvv: u8, rm: Rm, imm: Option<u8>, pool: usize) -> Result<(), String> {
    let info = i.op_code();
    let (mut has_reg, mut has_vvvv, mut has_imm) = (info.is_group(), false, false);
    if info.is_group() {
        same("opcode extension", info.group_index(), i32::from(reg))?;
    }
    for n in 0..info.op_count() {
        let number = || i.op_register(n).full_register().number() as u8;
        match field(info.op_kind(n)) {
            Field::Reg => {
                has_reg = true;
                same("reg", number(), reg)?;
            }
            Field::Vvvv => {
                has_vvvv = true;
                same("vvvv", number(), vvvv)?;
            }
            Field::Is4 => {
                has_imm = true;
                same("register in the immediate", Some(number() << 4), imm)?;
            }
            Field::Imm => {
                has_imm = true;
                if let Some(imm) = imm {
                    same("immediate", i.immediate8(), imm)?;
                }
            }
            Field::Rm => match (rm, i.op_kind(n)) {
                (Rm::Reg(r), OpKind::Register) => same("rm", number(), r)?,
                (Rm::Pool(PoolAt(offset)), OpKind::Memory) => {
                    same("relative", i.is_ip_rel_memory_operand(), true)?;
                    same("constant", i.ip_rel_memory_address(), (pool + offset as usize) as u64)?;
                }
                (Rm::Mem(Mem { base, index, disp }), OpKind::Memory) => {
                    same("base", i.memory_base(), Register::RAX + u32::from(base.0))?;
                    let (register, scale) =
                        index.map_or((Register::None, 0), |(r, s)| (Register::RAX + u32::from(r.0), s));
                    same("index", i.memory_index(), register)?;
                    same("scale", i.memory_index_scale(), 1 << scale)?;
                    same("displacement", i.memory_displacement64() as i64, i64::from(disp))?;
                }
                (_, kind) => return Err(format!("the last operand is {kind:?}")),
            },
            Field::Implied => {}
        }
    }
    same("use of vvvv", has_vvvv || vvvv == 0, true)?;
    same("use of reg", has_reg || reg == 0, true)?;
    same("use of the immediate", has_imm || imm.is_none(), true)
}

/// Where an operand is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Reg,
    Vvvv,
    Rm,
    Is4,
    Imm,
    Implied,
}

fn field(kind: Kind) -> Field {
    let name = format!("{kind:?}");
    match name.as_str() {
        "mem" => Field::Rm,
        _ if name.starts_with("imm") => Field::Imm,
        _ if name.ends_with("_or_mem") || name.ends_with("_rm") => Field::Rm,
        _ if name.ends_with("_vvvv") => Field::Vvvv,
        _ if name.ends_with("_is4") => Field::Is4,
        _ if name.ends_with("_reg") => Field::Reg,
        _ => Field::Implied,
    }
}

/// An error if the instruction set does not have the instruction.
fn instruction_set(i: &Instruction, isa: Isa) -> Result<(), String> {
    use CpuidFeature as F;
    // What every x86-64 processor has, in iced's words.
    let base = [F::INTEL8086, F::INTEL186, F::INTEL286, F::INTEL386, F::INTEL486, F::X64, F::CMOV, F::SSE, F::SSE2];
    // A processor without it does nothing instead. AVX2 code has none.
    let hints = [F::PREFETCHW];
    let x87 = [F::FPU, F::FPU287, F::FPU387, F::MULTIBYTENOP];
    let avx2 = [F::AVX, F::AVX2, F::FMA, F::BMI1, F::BMI2];
    let avx512 = [F::AVX512F, F::AVX512DQ, F::AVX512BW, F::AVX512VL];
    for feature in i.cpuid_features() {
        let sets: &[&[F]] = match isa {
            Isa::Avx2 => &[&base, &x87, &avx2],
            Isa::Avx512 => &[&base, &hints, &x87, &avx2, &avx512],
        };
        if !sets.iter().any(|set| set.contains(feature)) {
            return Err(format!("{i} needs {feature:?}, which {isa:?} does not promise"));
        }
    }
    Ok(())
}

// Kernels.

fn traced(kernel: &Kernel, isa: Isa) -> Result<Traced, &'static str> {
    super::emit(kernel, &Analysis::new(kernel), isa).map(|g| Traced::new(g.a))
}

/// A loop that applies a primitive, with each operand in memory, a parameter, or a constant, and stores the result.
fn one_prim(prim: Prim, args: &[DType], result: DType, second: usize) -> Kernel {
    let mut b = Builder::kernel(Nest::Rows);
    let known = (second > 0 && args.len() > 1).then(|| match second {
        1 => b.param(args[1]),
        _ => b.constant(Literal::from_i64(args[1], 3)),
    });
    let inputs: Vec<u32> = args.iter().map(|d| b.operand(*d, Role::In, Level::Inner)).collect();
    let out = b.operand(result, Role::Out, Level::Inner);
    b.stage(StageKind::Loop);
    let values: Vec<Value> = inputs.iter().map(|n| b.load(*n)).collect();
    let values: Vec<Value> = values.iter().enumerate().map(|(n, v)| known.filter(|_| n == 1).unwrap_or(*v)).collect();
    let y = apply(&mut b, prim, &values, result);
    b.store(out, y);
    b.finish()
}

/// Every form of every primitive, random kernels of all shapes, and those of random graphs, which have the bodies of
/// functions and work behind jumps.
fn all_kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for prim in Prim::ALL {
        for (args, result) in forms(prim) {
            kernels.extend((0..3).map(|second| one_prim(prim, &args, result, second)));
        }
    }
    for seed in 0..400 {
        for columns in [false, true] {
            let Case { kernel, .. } = random_case(&mut Rng::of_seed(seed, columns), columns);
            kernels.push(kernel);
        }
    }
    for call in (0..150).filter_map(|seed| random_call(seed, 12)) {
        kernels.extend(planned(&call.graph, true, true).steps.iter().filter_map(|step| step.kernel().cloned()));
    }
    kernels
}

/// The vector instructions of kernels, for one instruction set, by what makes them different: all fields but
/// the numbers of registers.
fn templates(kernels: &[Kernel], isa: Isa) -> Vec<(Asked, Instruction)> {
    let mut found: BTreeMap<String, (Asked, Instruction)> = BTreeMap::new();
    for kernel in kernels {
        let Ok(traced) = traced(kernel, isa) else { continue };
        traced.check(isa, |asked, i| {
            if let Asked::Vector { .. } = asked {
                found.entry(format!("{:?}", i.code())).or_insert_with(|| (asked.clone(), *i));
            }
        });
    }
    found.into_values().collect()
}

/// Numbers of registers that need each of the bits.
const REGISTERS: [u8; 9] = [0, 5, 7, 8, 13, 15, 16, 23, 31];

/// How many registers of its kind an operand can name.
fn registers(kind: Kind, isa: Isa) -> u8 {
    let name = format!("{kind:?}");
    match name.split('_').next() {
        Some("k") => 8,
        Some("r32" | "r64") => 16,
        _ if name.ends_with("is4") => 16,
        _ => isa.registers(),
    }
}

/// Memory operands of all kinds.
fn memories() -> Vec<Rm> {
    let indices = [None, Some((RAX, 0)), Some((Gpr(1), 3)), Some((Gpr(5), 2)), Some((Gpr(12), 1)), Some((Gpr(15), 3))];
    let displacements = [0, 8, -8, 64, 127 * 64, -128 * 64, 128 * 64, 100, 1000, -4096];
    let mut all = vec![Rm::Pool(PoolAt(0)), Rm::Pool(PoolAt(64))];
    for base in 0..16 {
        for index in indices {
            all.extend(displacements.map(|disp| Rm::Mem(Mem { base: Gpr(base), index, disp })));
        }
    }
    all
}

#[test]
fn every_instruction_with_all_kinds_of_operands() {
    let kernels = all_kernels();
    let memories = memories();
    for isa in ISAS {
        let templates = templates(&kernels, isa);
        let mut count = 0;
        for (asked, instruction) in &templates {
            let Asked::Vector { evex, op, len, reg, imm, .. } = asked else { continue };
            let info = instruction.op_code();
            let kinds: Vec<Kind> = (0..info.op_count()).map(|n| info.op_kind(n)).collect();
            let numbers = |which: Field| match kinds.iter().find(|k| field(**k) == which) {
                Some(kind) => REGISTERS.into_iter().filter(|r| *r < registers(*kind, isa)).collect(),
                None => vec![0],
            };
            let rm_kind = kinds.iter().copied().find(|k| field(*k) == Field::Rm).expect("a last operand");
            let rm_name = format!("{rm_kind:?}");
            let regs = if info.is_group() { vec![*reg] } else { numbers(Field::Reg) };
            let imms: Vec<Option<u8>> = match (kinds.iter().any(|k| field(*k) == Field::Is4), imm) {
                (true, _) => [0, 5, 8, 15].map(|r| Some(r << 4)).to_vec(),
                (_, Some(_)) => vec![Some(0), *imm, Some(255)],
                _ => vec![None],
            };
            let mut hows = vec![PLAIN];
            if *evex && info.can_use_op_mask_register() {
                hows.push(Masking { mask: 7, ..PLAIN });
                if info.can_use_zeroing_masking() {
                    hows.push(Masking { mask: 5, zero: true, ..PLAIN });
                }
            }
            let mut asm = Asm::new(isa);
            let mut emit = |reg, vvvv, rm, imm: Option<u8>, how: Masking, bytes| {
                if *evex || isa == Isa::Avx2 {
                    asm.vector(*op, *len, reg, vvvv, rm, imm, how, bytes);
                } else if let (Some(imm), Rm::Reg(r)) = (imm, rm) {
                    asm.vex_imm(*op, reg, r, imm);
                } else {
                    asm.vex(*op, *len, reg, vvvv, rm, 0);
                }
            };
            let vvvvs = numbers(Field::Vvvv);
            if rm_name != "mem" {
                for reg in &regs {
                    for vvvv in &vvvvs {
                        for rm in numbers(Field::Rm) {
                            for imm in &imms {
                                for how in &hows {
                                    emit(*reg, *vvvv, Rm::Reg(rm), *imm, *how, 0);
                                }
                            }
                        }
                    }
                }
            }
            if rm_name.ends_with("mem") {
                let size = info.memory_size().size();
                for (n, rm) in memories.iter().enumerate() {
                    let (reg, vvvv) = (regs[n % regs.len()], vvvvs[n / 3 % vvvvs.len()]);
                    for imm in &imms {
                        for how in hows.iter().filter(|how| !how.zero) {
                            emit(reg, vvvv, *rm, *imm, *how, size);
                            if *evex && info.can_broadcast() {
                                let element = info.broadcast_memory_size().size();
                                emit(reg, vvvv, *rm, *imm, Masking { broadcast: true, ..*how }, element);
                            }
                        }
                    }
                }
            }
            // Constants for the pool operands.
            asm.table(&[1; 32]);
            asm.table(&[2; 32]);
            asm.table(&[3; 32]);
            asm.table(&[4; 32]);
            let traced = Traced::new(asm);
            count += traced.asked.len();
            for (begin, end, asked) in &traced.asked {
                let bytes = &traced.bytes[*begin..*end];
                let i = check(bytes, *begin, asked, traced.pool());
                let i = i.unwrap_or_else(|e| panic!("{bytes:02x?}: {e}\n{asked:?}"));
                assert_eq!(i.mnemonic(), instruction.mnemonic(), "{asked:?}");
            }
        }
        println!("{isa:?}: {} instructions, {count} encodings", templates.len());
        assert!(templates.len() > 100, "{isa:?}: only {} instructions", templates.len());
    }
}

/// Why the tier leaves kernels to Cranelift, whatever they compute.
const LIMITS: [&str; 2] = ["too many instructions", "too much stack"];

#[test]
fn kernels_are_what_was_asked_for() {
    let mut golden: BTreeSet<String> = BTreeSet::new();
    let kernels = all_kernels();
    for isa in ISAS {
        let mut compiled = 0;
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for kernel in &kernels {
            match traced(kernel, isa) {
                Err(reason) => *refused.entry(reason).or_default() += 1,
                Ok(traced) => {
                    compiled += 1;
                    traced.check(isa, |asked, i| {
                        golden.insert(golden_line(asked, i));
                    });
                }
            }
        }
        println!("{isa:?}: {compiled} kernels, refused: {refused:?}");
        let of_other_reasons = refused.keys().filter(|reason| !LIMITS.contains(reason)).count();
        assert_eq!(of_other_reasons, 0, "{isa:?} refuses kernels that are not too large: {refused:?}");
        let refused: usize = refused.values().sum();
        assert!(refused < kernels.len() / 100, "{isa:?} refuses {refused} of {} kernels", kernels.len());
    }
    let mut text = String::from(
        "# Every instruction that the wide tier emits: its encoding fields, and the instruction that iced-x86 sees there.\n\
         # Written by `BLESS=1 cargo test -p numfuse-cpu --lib wide`.\n",
    );
    golden.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wide_instructions.txt");
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let want = std::fs::read_to_string(path).expect("a golden file");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (want, found) = (lines(&want), lines(&text));
    let new: Vec<_> = found.difference(&want).collect();
    let gone: Vec<_> = want.difference(&found).collect();
    assert!(new.is_empty() && gone.is_empty(), "new: {new:#?}\ngone: {gone:#?}\n(BLESS=1 writes the file anew)");
}

/// What an instruction is, without its operands and the length of its vectors.
fn golden_line(asked: &Asked, i: &Instruction) -> String {
    let mnemonic = format!("{:?}", i.mnemonic()).to_lowercase();
    let extension = |reg: u8| if i.op_code().is_group() { format!(" /{reg}") } else { String::new() };
    match asked {
        Asked::Vector { evex, op, reg, imm, .. } => {
            let encoding = if *evex { "evex" } else { "vex " };
            let w = u8::from(if *evex { op.evex_w } else { op.vex_w });
            let prefix = ["np", "66", "f3", "f2"][usize::from(op.prefix)];
            let map = ["", "0f  ", "0f38", "0f3a"][usize::from(op.map)];
            // A predicate or a rounding mode is part of the operation.
            let has_mode = ["vpcmp", "vcmp", "vrndscale", "vround"].iter().any(|name| mnemonic.starts_with(name));
            let mode = imm.filter(|_| has_mode).map_or(String::new(), |mode| format!(" {mode:#04x}"));
            let opcode = format!("{:02x}{}", op.opcode, extension(*reg));
            format!("{encoding} {prefix} {map} w{w} {opcode}{mode}: {mnemonic}")
        }
        Asked::Legacy { opcode, wide, reg, .. } => {
            let bytes: Vec<String> = opcode.iter().map(|b| format!("{b:02x}")).collect();
            format!("legacy w{} {}{}: {mnemonic}", u8::from(*wide), bytes.join(" "), extension(*reg))
        }
        Asked::Jump(_) | Asked::Fixed => format!("legacy: {mnemonic}"),
    }
}

// Integer instructions: their text, spelled out here.

const R64: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const R32: [&str; 16] = [
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d",
    "r15d",
];
const R16: [&str; 16] =
    ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"];
const R8: [&str; 16] =
    ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b"];

const CONDITIONS: [(Cond, &str); 9] = [
    (Cond::Below, "b"),
    (Cond::AboveEqual, "ae"),
    (Cond::Equal, "e"),
    (Cond::NotEqual, "ne"),
    (Cond::BelowEqual, "be"),
    (Cond::Above, "a"),
    (Cond::Less, "l"),
    (Cond::LessEqual, "le"),
    (Cond::Greater, "g"),
];

fn address(mem: Mem) -> String {
    let index = mem.index.map_or(String::new(), |(r, scale)| match scale {
        0 => format!("+{}", R64[usize::from(r.0)]),
        _ => format!("+{}*{}", R64[usize::from(r.0)], 1 << scale),
    });
    let disp = if mem.disp == 0 { String::new() } else { format!("{:+}", mem.disp) };
    format!("[{}{index}{disp}]", R64[usize::from(mem.base.0)])
}

/// Emits instructions and compares their text.
fn expect(emit: impl FnOnce(&mut Asm), want: &str) {
    let mut asm = Asm::new(Isa::Avx2);
    emit(&mut asm);
    let traced = Traced::new(asm);
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_number_base(NumberBase::Decimal);
    options.set_memory_size_options(MemorySizeOptions::Never);
    options.set_signed_immediate_operands(true);
    let mut lines = Vec::new();
    for (begin, end, asked) in &traced.asked {
        let bytes = &traced.bytes[*begin..*end];
        let i = check(bytes, *begin, asked, traced.pool()).unwrap_or_else(|e| panic!("{want}: {bytes:02x?}: {e}"));
        let mut line = String::new();
        formatter.format(&i, &mut line);
        lines.push(line);
    }
    assert_eq!(lines.join("; "), want);
}

#[test]
fn integer_instructions() {
    let all = (0..16).map(Gpr);
    for to in all.clone() {
        let n = usize::from(to.0);
        let (t64, t32) = (R64[n], R32[n]);
        for from in all.clone() {
            let f = R64[usize::from(from.0)];
            expect(|a| a.mov(to, from), &if to == from { String::new() } else { format!("mov {t64},{f}") });
            expect(|a| a.test(to, from), &format!("test {t64},{f}"));
            expect(|a| a.imul(to, from), &format!("imul {t64},{f}"));
            expect(|a| a.low_bits(to, from, Gpr(9)), &format!("bzhi {t64},{f},r9"));
            for imm in [3, -4096] {
                let factor = if to == from { String::new() } else { format!("{f},") };
                expect(|a| a.imul_imm(to, from, imm), &format!("imul {t64},{factor}{imm}"));
            }
            for (what, name) in [
                (Alu::Add, "add"),
                (Alu::Or, "or"),
                (Alu::And, "and"),
                (Alu::Sub, "sub"),
                (Alu::Xor, "xor"),
                (Alu::Cmp, "cmp"),
            ] {
                expect(|a| a.alu(what, to, from), &format!("{name} {t64},{f}"));
            }
            for (cond, name) in CONDITIONS {
                expect(|a| a.mov_if(cond, to, from), &format!("cmov{name} {t64},{f}"));
            }
        }
        for (imm, want) in [
            (0, format!("xor {t32},{t32}")),
            (1, format!("mov {t32},1")),
            (0x7fff_ffff, format!("mov {t32},2147483647")),
            (0x1_0000_0000, format!("mov {t64},4294967296")),
            (-1, format!("mov {t64},-1")),
        ] {
            expect(|a| a.mov_imm(to, imm), &want);
        }
        for imm in [0, 127, 128, -128, -129, i32::MAX, i32::MIN] {
            for (what, name) in [(Alu::Add, "add"), (Alu::Or, "or"), (Alu::And, "and"), (Alu::Cmp, "cmp")] {
                expect(|a| a.alu_imm(what, to, imm), &format!("{name} {t64},{imm}"));
            }
        }
        for (what, name) in [(Shift::Left, "shl"), (Shift::Right, "shr"), (Shift::Arithmetic, "sar")] {
            expect(|a| a.shift(what, to, 7), &format!("{name} {t64},7"));
            expect(|a| a.shift_cl(what, to), &format!("{name} {t64},cl"));
        }
        expect(|a| a.neg(to), &format!("neg {t64}"));
        expect(|a| a.test_imm(to, 0x400), &format!("test {t32},1024"));
        expect(|a| a.divide(to, true), &format!("idiv {t64}"));
        expect(|a| a.divide(to, false), &format!("div {t64}"));
        expect(|a| a.push(to), &format!("push {t64}"));
        expect(|a| a.pop(to), &format!("pop {t64}"));
        for rm in memories() {
            let Rm::Mem(mem) = rm else { continue };
            let at = address(mem);
            expect(|a| a.load(to, mem), &format!("mov {t64},{at}"));
            expect(|a| a.store(mem, to), &format!("mov {at},{t64}"));
            expect(|a| a.lea(to, mem), &format!("lea {t64},{at}"));
            expect(|a| a.call_mem(mem), &format!("call {at}"));
            expect(|a| a.alu_mem(Alu::Cmp, to, mem), &format!("cmp {t64},{at}"));
            expect(|a| a.imul_mem(to, mem), &format!("imul {t64},{at}"));
            for (bytes, signed, name, to_name) in [
                (1, false, "movzx", t32),
                (2, false, "movzx", t32),
                (4, false, "mov", t32),
                (8, false, "mov", t64),
                (1, true, "movsx", t64),
                (2, true, "movsx", t64),
                (4, true, "movsxd", t64),
                (8, true, "mov", t64),
            ] {
                expect(|a| a.load_int(to, mem, bytes, signed), &format!("{name} {to_name},{at}"));
            }
            for (bytes, name) in [(1, R8[n]), (2, R16[n]), (4, t32), (8, t64)] {
                expect(|a| a.store_int(mem, to, bytes), &format!("mov {at},{name}"));
            }
            if n == 0 {
                expect(|a| a.x87_load(mem, 8), &format!("fld st,{at}"));
                expect(|a| a.x87_store_pop(mem, 4), &format!("fstp {at},st"));
            }
        }
    }
    expect(|a| a.sign_extend_rax(), "cqo");
    expect(|a| a.ret(), "ret");
    expect(|a| a.zero_upper(), "vzeroupper");
    expect(|a| a.x87_remainder_step(), "fprem; fnstsw ax");
    expect(|a| a.store_fence(), "sfence");
    expect(|a| a.x87_drop(), "fstp st(0),st");
    for (cond, name) in CONDITIONS {
        let back_and_forth = |a: &mut Asm| {
            let (begin, end) = (a.here(), a.label());
            a.jump_if(cond, end);
            a.jump(begin);
            a.bind(end);
            a.ret();
        };
        expect(back_and_forth, &format!("j{name} 11; jmp 0; ret"));
    }
}

#[test]
fn loops_begin_at_a_line() {
    for before in 0..33 {
        let mut asm = Asm::new(Isa::Avx2);
        for _ in 0..before {
            asm.ret();
        }
        asm.align_loop();
        assert_eq!(asm.code_len() % 32, 0);
        Traced::new(asm).check(Isa::Avx2, |_, i| {
            assert!(matches!(i.mnemonic(), Mnemonic::Ret | Mnemonic::Nop), "{i}");
        });
    }
}

// The checks themselves.

#[test]
fn code_for_avx2_needs_nothing_more() {
    // In its AVX-512 form the tier's code is refused as AVX2 code, and so is what neither has.
    let mut asm = Asm::new(Isa::Avx512);
    asm.vector(op(1, 1, 0xfe, false), Len::L256, 1, 2, Rm::Reg(3), None, PLAIN, 0);
    let i = decode(&asm.finish(), 0).expect("vpaddd");
    assert!(instruction_set(&i, Isa::Avx512).is_ok());
    assert!(instruction_set(&i, Isa::Avx2).is_err());
    for (evex, planted) in [
        // vpermb (VBMI), vpopcntd (VPOPCNTDQ), vpconflictd (CD), vpmadd52luq (IFMA), vgf2p8mulb (GFNI).
        (true, op(1, 2, 0x8d, false)),
        (true, op(1, 2, 0x55, false)),
        (true, op(1, 2, 0xc4, false)),
        (true, op_w(1, 2, 0xb4, true)),
        (false, op(1, 2, 0xcf, false)),
    ] {
        let isa = if evex { Isa::Avx512 } else { Isa::Avx2 };
        let mut asm = Asm::new(isa);
        let unary = matches!(planted.opcode, 0x55 | 0xc4);
        asm.vector(planted, Len::L256, 1, if unary { 0 } else { 2 }, Rm::Reg(3), None, PLAIN, 0);
        let i = decode(&asm.finish(), 0).expect("an instruction");
        assert!(instruction_set(&i, isa).is_err(), "{i}");
    }
}

#[test]
fn no_wrong_bit_goes_unnoticed() {
    let kernels = all_kernels();
    let mut flips = 0;
    for isa in ISAS {
        for (asked, _) in templates(&kernels, isa) {
            let Asked::Vector { evex, op, len, reg, vvvv, rm, imm, how, memory } = asked.clone() else { continue };
            let rm = if let Rm::Pool(_) = rm { Rm::Pool(PoolAt(0)) } else { rm };
            let mut asm = Asm::new(isa);
            if evex || isa == Isa::Avx2 {
                asm.vector(op, len, reg, vvvv, rm, imm, how, memory);
            } else if let (Some(imm), Rm::Reg(r)) = (imm, rm) {
                asm.vex_imm(op, reg, r, imm);
            } else {
                asm.vex(op, len, reg, vvvv, rm, 0);
            }
            asm.table(&[1; 32]);
            asm.table(&[2; 32]);
            let traced = Traced::new(asm);
            let (begin, end, asked) = &traced.asked[0];
            let right = check(&traced.bytes[*begin..*end], 0, asked, traced.pool()).expect("a right instruction");
            for bit in 0..8 * (end - begin) {
                let mut bytes = traced.bytes[*begin..*end].to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                flips += 1;
                // Bits that the processor ignores change nothing.
                if let Ok(wrong) = check(&bytes, 0, asked, traced.pool()) {
                    assert!(wrong == right, "{right} and {wrong} are both {asked:?}");
                }
            }
        }
    }
    println!("{flips} flipped bits");
}

/// A wrong W bit, planted: what the notes say is not what the bytes are.
#[test]
fn a_wrong_field_is_named() {
    let mut asm = Asm::new(Isa::Avx512);
    let wrong = Op { evex_w: false, ..op(1, 1, 0x58, true) };
    asm.vector(wrong, Len::L512, 1, 2, Rm::Reg(3), None, PLAIN, 0);
    let bytes = asm.finish();
    let asked = Asked::Vector {
        evex: true,
        op: op(1, 1, 0x58, true),
        len: Len::L512,
        reg: 1,
        vvvv: 2,
        rm: Rm::Reg(3),
        imm: None,
        how: PLAIN,
        memory: 0,
    };
    assert!(check(&bytes, 0, &asked, 0).is_err());
}
