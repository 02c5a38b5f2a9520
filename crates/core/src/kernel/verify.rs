//! Checks the invariants of a kernel. A failure is always a bug in numfuse.
//!
//! * typing of every instruction ([`check_prim`]); operands before users; loop values used in their own stage only;
//! * operand, parameter, scratch and reduction indices in range; roles and levels respected; one store per output;
//! * `Rows`: `Reduced` values stand in the `Row` stage after their loop; `Columns`: in the last `Loop`, and that loop
//!   uses no value that varies along the reduced dimensions;
//! * scratch slots are stored before they are loaded, in an earlier loop.

use super::{Inst, Kernel, Level, Nest, Prim, Role, StageKind, Value};
use crate::dtype::{DType, Kind};

/// Checks a kernel; the text says what is broken and where.
pub fn verify(kernel: &Kernel) -> Result<(), String> {
    let mut stage_of = vec![usize::MAX; kernel.insts.len()];
    let mut next = 0;
    for (s, stage) in kernel.stages.iter().enumerate() {
        if stage.start != next || stage.end < stage.start {
            return Err(format!("stage {s} leaves a gap"));
        }
        next = stage.end;
        for v in stage.values() {
            *stage_of.get_mut(v.index()).ok_or("a stage past the last instruction")? = s;
        }
    }
    if next as usize != kernel.insts.len() {
        return Err("instructions outside of every stage".into());
    }
    let kinds: Vec<StageKind> = kernel.stages.iter().map(|s| s.kind).collect();
    if kernel.nest == Nest::Columns && kinds != [StageKind::Row, StageKind::Loop, StageKind::Loop] {
        return Err("a column kernel has the stages row, loop, loop".into());
    }
    let mut stored = vec![false; kernel.operands.len()];
    let mut scratch_stored = vec![usize::MAX; kernel.scratch.len()];
    // In column kernels: values that are the same for every reduced index.
    let mut uniform = vec![false; kernel.insts.len()];
    for (i, data) in kernel.insts.iter().enumerate() {
        let here = stage_of[i];
        let kind = kinds[here];
        let fail = |what: &str| Err(format!("v{i}: {what}"));
        for v in data.inst.operands() {
            if v.index() >= i {
                return fail("operand does not precede its user");
            }
            let there = stage_of[v.index()];
            if there != here && kinds[there] == StageKind::Loop {
                return fail("loop value used outside of its loop");
            }
            if kernel.nest == Nest::Columns && here == 2 && there == 0 && !uniform[v.index()] {
                return fail("the last stage uses a value of one reduced index");
            }
        }
        uniform[i] = match &data.inst {
            Inst::Const(_) | Inst::Param(_) => true,
            Inst::Prim(_, args) => args.iter().all(|v| uniform[v.index()]),
            _ => false,
        };
        match &data.inst {
            Inst::Const(literal) if literal.dtype() != data.dtype => return fail("constant of another dtype"),
            Inst::Const(_) => {}
            Inst::Param(n) if kernel.params.get(*n as usize) != Some(&data.dtype) => return fail("no such parameter"),
            Inst::Param(_) => {}
            Inst::Arg(_) => return fail("argument outside of a body"),
            Inst::Prim(prim, args) => {
                let mut dtypes = [DType::Bool; 3];
                for (dtype, v) in dtypes.iter_mut().zip(args) {
                    *dtype = kernel.dtype(*v);
                }
                let dtypes = &dtypes[..args.len()];
                if !is_typed(*prim, dtypes, data.dtype) {
                    check_prim(*prim, dtypes, data.dtype).or_else(|reason| fail(&reason))?;
                }
            }
            Inst::Load(n) | Inst::Store(n, _) => {
                let Some(operand) = kernel.operands.get(*n as usize) else { return fail("no such operand") };
                let is_store = matches!(data.inst, Inst::Store(..));
                if (operand.role == Role::Out) != is_store {
                    return fail("operand used against its role");
                }
                if (operand.level == Level::Row) != (kind == StageKind::Row) {
                    return fail("operand used in a stage of the wrong kind");
                }
                if operand.dtype != data.dtype {
                    return fail("operand of another dtype");
                }
                if is_store && std::mem::replace(&mut stored[*n as usize], true) {
                    return fail("operand stored twice");
                }
            }
            Inst::ScratchLoad(n) => {
                if kernel.scratch.get(*n as usize) != Some(&data.dtype) {
                    return fail("no such scratch slot");
                }
                if scratch_stored[*n as usize] >= here {
                    return fail("scratch loaded before it is stored");
                }
            }
            Inst::ScratchStore(n, _) => {
                if kernel.scratch.get(*n as usize) != Some(&data.dtype) {
                    return fail("no such scratch slot");
                }
                scratch_stored[*n as usize] = here;
            }
            Inst::Reduced(n) => {
                let Some(reduction) = kernel.reductions.get(*n as usize) else { return fail("no such reduction") };
                let expected = match kernel.nest {
                    Nest::Rows => kind == StageKind::Row && here > reduction.stage as usize,
                    Nest::Columns => here == 2,
                };
                if !expected || reduction.dtype != data.dtype {
                    return fail("reduction read in the wrong place or as another dtype");
                }
            }
        }
        if matches!(data.inst, Inst::ScratchLoad(_) | Inst::ScratchStore(..)) && kind != StageKind::Loop {
            return fail("scratch outside of a loop");
        }
    }
    for (i, reduction) in kernel.reductions.iter().enumerate() {
        let v: Value = reduction.input;
        let in_place = kinds.get(reduction.stage as usize) == Some(&StageKind::Loop)
            && v.index() < stage_of.len()
            && (stage_of[v.index()] == reduction.stage as usize
                || (kinds[stage_of[v.index()]] == StageKind::Row && stage_of[v.index()] < reduction.stage as usize));
        if !in_place || kernel.dtype(v) != reduction.dtype {
            return Err(format!("reduction {i} folds a value of another stage or dtype"));
        }
    }
    for (i, operand) in kernel.operands.iter().enumerate() {
        if operand.role == Role::Out && !stored[i] {
            return Err(format!("output operand {i} is never stored"));
        }
    }
    Ok(())
}

/// Checks the typing rule of a primitive.
pub(super) fn check_prim(prim: Prim, args: &[DType], result: DType) -> Result<(), String> {
    if args.len() != prim.arity() {
        return Err(format!("{} operands instead of {}", args.len(), prim.arity()));
    }
    if is_typed(prim, args, result) {
        Ok(())
    } else {
        Err(format!("{} does not take {args:?} to {result}", prim.name()))
    }
}

/// True if the operands of a primitive are as many as it takes, and of the dtypes that give this one.
fn is_typed(prim: Prim, args: &[DType], result: DType) -> bool {
    use Prim::*;
    if args.len() != prim.arity() {
        return false;
    }
    let same = args.iter().all(|d| *d == result);
    let float = result.is_float();
    let bool_ = result == DType::Bool;
    match prim {
        Neg | Add | Sub | Mul | Div | Rem | Min | Max => same && !bool_,
        Abs => same && (float || result.is_signed()),
        Fma | Sqrt | Floor | Ceil | Trunc | RoundEven | Scale | LargeSin | LargeCos | LargeTan => same && float,
        And | Or | Xor | Not => same && !float,
        Shl | Shr => same && result.is_int(),
        Eq | Ne => bool_ && args[0] == args[1],
        Lt | Le => bool_ && args[0] == args[1] && args[0].kind() != Kind::Bool,
        Select => args[0] == DType::Bool && args[1] == result && args[2] == result,
        Cast => args[0] != result,
        Bitcast => args[0] != result && args[0].size() == result.size() && args[0] != DType::Bool && !bool_,
    }
}
