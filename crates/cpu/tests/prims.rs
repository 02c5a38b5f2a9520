//! Every primitive for every dtype on special values, in vectors and one by one, against the interpreter.

mod common;

use common::{Block, Case, Compilers, EACH_CODE, Rng, apply, forms, put, special_bits};
use numfuse_core::dtype::DType;
use numfuse_core::kernel::{Builder, Kernel, Level, Nest, Prim, Role, StageKind, Value};
use numfuse_core::launch::{Launch, Layout};
use numfuse_core::literal::Literal;

/// All combinations of special values of the operands.
fn combinations(args: &[DType]) -> Vec<Vec<u64>> {
    let mut rows: Vec<Vec<u64>> = vec![vec![]];
    for (i, dtype) in args.iter().enumerate() {
        let mut values = special_bits(*dtype);
        if i > 0 && args.len() == 3 {
            // Three operands: the product of all would be long.
            values = values.into_iter().step_by(3).collect();
        }
        rows = rows.iter().flat_map(|row| values.iter().map(move |v| [row.as_slice(), &[*v]].concat())).collect();
    }
    rows
}

fn contiguous(n: usize, dtypes: &[DType]) -> Launch {
    Launch {
        inner: [n].into_iter().collect(),
        layouts: dtypes
            .iter()
            .map(|d| Layout { inner: [d.size() as isize].into_iter().collect(), ..Layout::default() })
            .collect(),
        ..Launch::default()
    }
}

fn case(kernel: Kernel, columns: &[(DType, Vec<u64>)], result: DType, n: usize, params: Vec<Literal>) -> Case {
    let mut memory: Vec<Block> = columns
        .iter()
        .map(|(dtype, values)| {
            let mut bytes = vec![0; n * dtype.size()];
            for (i, bits) in values.iter().enumerate() {
                put(&mut bytes, i * dtype.size(), *dtype, *bits);
            }
            Block { bytes, offset: 0 }
        })
        .collect();
    memory.push(Block { bytes: vec![0xaa; n * result.size()], offset: 0 });
    let mut dtypes: Vec<DType> = columns.iter().map(|c| c.0).collect();
    dtypes.push(result);
    let mut case = Case { kernel, launch: contiguous(n, &dtypes), memory, params };
    case.prepare();
    case
}

#[test]
fn special_values() {
    let compilers = Compilers::new();
    for prim in Prim::ALL {
        for (args, result) in forms(prim) {
            let rows = combinations(&args);
            let mut b = Builder::kernel(Nest::Rows);
            let inputs: Vec<u32> = args.iter().map(|d| b.operand(*d, Role::In, Level::Inner)).collect();
            let out = b.operand(result, Role::Out, Level::Inner);
            b.stage(StageKind::Loop);
            let values: Vec<Value> = inputs.iter().map(|n| b.load(*n)).collect();
            let y = apply(&mut b, prim, &values, result);
            b.store(out, y);
            let columns: Vec<(DType, Vec<u64>)> =
                args.iter().enumerate().map(|(i, d)| (*d, rows.iter().map(|row| row[i]).collect())).collect();
            let case = case(b.finish(), &columns, result, rows.len(), vec![]);
            case.check(&compilers, &EACH_CODE, &format!("{} {args:?}", prim.name()));
        }
    }
}

/// Where conversions round, saturate and change their ways: around powers of two, and around the middle between two floats.
fn near_powers(dtype: DType) -> Vec<u64> {
    let mut values = Vec::new();
    if dtype.is_float() {
        for k in -2..66 {
            let power = 2f64.powi(k);
            for x in [power, -power, power + 0.5, power - 0.5, -power - 0.5, 1.5 * power, -1.5 * power] {
                let bits = Literal::f64(x).cast(dtype).bits();
                values.extend([bits.wrapping_sub(1), bits, bits.wrapping_add(1)]);
            }
        }
    } else {
        for k in 0..dtype.bits() {
            for below in [1, 11, 12, 24, 25, 29, 30, 53, 54] {
                let (power, middle) = (1u64 << k, (1u64 << k) >> below);
                for x in [power, power + middle, power.wrapping_add(3 * middle), power - middle] {
                    values.extend([x.wrapping_sub(1), x, x.wrapping_add(1)]);
                    values.extend([
                        x.wrapping_neg(),
                        x.wrapping_neg().wrapping_sub(1),
                        x.wrapping_neg().wrapping_add(1),
                    ]);
                }
            }
        }
    }
    let mut rng = Rng(dtype.bits().into());
    values.extend((0..1000).map(|_| rng.next() >> rng.below(64)));
    values.iter().map(|bits| Literal::from_bits(dtype, *bits).bits()).collect()
}

#[test]
fn conversions_round_and_saturate() {
    let compilers = Compilers::new();
    for (args, result) in forms(Prim::Cast) {
        let from = args[0];
        if from == DType::Bool || result == DType::Bool || from.is_float() == result.is_float() {
            continue;
        }
        let mut b = Builder::kernel(Nest::Rows);
        let input = b.operand(from, Role::In, Level::Inner);
        let out = b.operand(result, Role::Out, Level::Inner);
        b.stage(StageKind::Loop);
        let x = b.load(input);
        let y = b.cast(x, result);
        b.store(out, y);
        let values = near_powers(from);
        let n = values.len();
        let case = case(b.finish(), &[(from, values)], result, n, vec![]);
        case.check(&compilers, &EACH_CODE, &format!("{from} to {result}"));
    }
}

#[test]
fn uniform_second_operands() {
    // The second operand as a constant and as a parameter: shifts by one count have a vector form of their own.
    let compilers = Compilers::new();
    for prim in Prim::ALL.into_iter().filter(|p| p.arity() == 2) {
        for (args, result) in forms(prim) {
            let dtype = args[0];
            for bits in special_bits(dtype) {
                let literal = Literal::from_bits(dtype, bits);
                for constant in [true, false] {
                    let mut b = Builder::kernel(Nest::Rows);
                    let y = if constant { b.constant(literal) } else { b.param(dtype) };
                    let input = b.operand(dtype, Role::In, Level::Inner);
                    let out = b.operand(result, Role::Out, Level::Inner);
                    b.stage(StageKind::Loop);
                    let x = b.load(input);
                    let z = apply(&mut b, prim, &[x, y], result);
                    b.store(out, z);
                    let values = special_bits(dtype);
                    let n = values.len();
                    let params = if constant { vec![] } else { vec![literal] };
                    let case = case(b.finish(), &[(dtype, values)], result, n, params);
                    case.check(&compilers, &EACH_CODE[..3], &format!("{} {dtype} by {literal}", prim.name()));
                }
            }
        }
    }
}

#[test]
fn mixed_widths_in_one_body() {
    // Each dtype cast to each other and compared and selected there, with loads and stores of both widths.
    let compilers = Compilers::new();
    for from in DType::ALL {
        for to in DType::ALL.into_iter().filter(|to| *to != from) {
            let mut b = Builder::kernel(Nest::Rows);
            let (x, y) = (b.operand(from, Role::In, Level::Inner), b.operand(to, Role::In, Level::Inner));
            let out = b.operand(to, Role::Out, Level::Inner);
            let narrow = b.operand(from, Role::Out, Level::Inner);
            let flag = b.operand(DType::Bool, Role::Out, Level::Inner);
            b.stage(StageKind::Loop);
            let (x, y) = (b.load(x), b.load(y));
            let wide = b.cast(x, to);
            let differs = b.ne(wide, y);
            let back = b.cast(y, from);
            let same = b.eq(back, x);
            let both = b.xor(differs, same);
            let picked = b.select(both, wide, y);
            let other = b.select(differs, x, back);
            b.store(out, picked);
            b.store(narrow, other);
            b.store(flag, both);
            let kernel = b.finish();
            let (a, c) = (special_bits(from), special_bits(to));
            let n = 3 * a.len().max(c.len()) + 1;
            let dtypes = [from, to, to, from, DType::Bool];
            let mut memory = Vec::new();
            for (d, values) in [(from, &a), (to, &c)] {
                let mut bytes = vec![0; n * d.size()];
                for i in 0..n {
                    put(&mut bytes, i * d.size(), d, values[(i * 7 + i / 5) % values.len()]);
                }
                memory.push(Block { bytes, offset: 0 });
            }
            for d in &dtypes[2..] {
                memory.push(Block { bytes: vec![0xaa; n * d.size()], offset: 0 });
            }
            let mut case = Case { kernel, launch: contiguous(n, &dtypes), memory, params: vec![] };
            case.prepare();
            case.check(&compilers, &EACH_CODE, &format!("{from} to {to}"));
        }
    }
}

#[test]
fn memory_may_be_at_any_address() {
    // Folded into an instruction, a load may need an alignment that nobody promises.
    let compilers = Compilers::new();
    for prim in Prim::ALL.into_iter().filter(|p| p.arity() == 2) {
        for (args, result) in forms(prim) {
            let dtype = args[0];
            let mut b = Builder::kernel(Nest::Rows);
            let y = b.param(dtype);
            let input = b.operand(dtype, Role::In, Level::Inner);
            let out = b.operand(result, Role::Out, Level::Inner);
            b.stage(StageKind::Loop);
            let x = b.load(input);
            let z = apply(&mut b, prim, &[y, x], result);
            b.store(out, z);
            let values = special_bits(dtype);
            let n = 3 * values.len() + 64;
            let columns = [(dtype, (0..n).map(|i| values[i % values.len()]).collect())];
            let mut case = case(b.finish(), &columns, result, n, vec![Literal::from_i64(dtype, 3)]);
            for block in &mut case.memory {
                block.bytes.splice(0..0, [0; 3]);
                block.offset = 3;
            }
            case.check(&compilers, &EACH_CODE, &format!("{} {dtype}", prim.name()));
        }
    }
}
