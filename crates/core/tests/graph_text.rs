//! Graphs verify, and their text reads back: over random graphs.

#[path = "../../../tests/support/random_graph.rs"]
mod random_graph;

use numfuse_core::graph::{Graph, parse::parse, verify::verify};
use proptest::prelude::*;
use random_graph::{Choices, Options, random_graph};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn graphs_verify_and_read_back(list in prop::collection::vec(any::<u32>(), 0..300)) {
        let made = random_graph(&mut Choices::new(&list), Options { ops: 40, ..Options::default() });
        let graph = made.graph;
        prop_assert_eq!(verify(&graph), Ok(()));
        prop_assert_eq!(graph.dims.check(&graph.dims.sizes(&made.sizes)), Ok(()));
        let text = graph.to_string();
        let read = parse(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(read.to_string(), text.as_str());
        // Reading numbers the dimensions anew, in the order of the text; from then on nothing changes at all.
        let again = parse(&text).map_err(|e| TestCaseError::fail(e.to_string()))?;
        same(&read, &again)?;
        for (a, b) in graph.ids().zip(read.ids()) {
            let (x, y) = (graph.node(a), read.node(b));
            prop_assert_eq!((x.dtype, x.weak, x.operands()), (y.dtype, y.weak, y.operands()));
            prop_assert_eq!(graph.dims.display(&x.shape).to_string(), read.dims.display(&y.shape).to_string());
        }
        prop_assert_eq!(graph.len(), read.len());
        prop_assert_eq!(graph.inputs(), read.inputs());
        prop_assert_eq!(&graph.outputs, &read.outputs);
        let codes = |g: &Graph| g.guards.iter().map(|g| (g.node, g.error.code)).collect::<Vec<_>>();
        prop_assert_eq!(codes(&graph), codes(&read));
    }

    /// No text makes the reader panic.
    #[test]
    fn broken_text_is_refused(list in prop::collection::vec(any::<u32>(), 0..100), at in 0usize..10_000, byte in 32u8..127) {
        let mut text = random_graph(&mut Choices::new(&list), Options::default()).graph.to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(graph) = parse(&String::from_utf8_lossy(&text)) {
            prop_assert_eq!(verify(&graph), Ok(()));
        }
    }
}

fn same(a: &Graph, b: &Graph) -> Result<(), TestCaseError> {
    for id in a.ids() {
        prop_assert_eq!(a.node(id), b.node(id));
    }
    Ok(())
}
