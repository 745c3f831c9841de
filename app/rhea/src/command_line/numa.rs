//! `-numa`: how memory and processors are spread over nodes, by the rules that QEMU documents for it.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, MebiSize, Options, options};

use super::Builder;
use crate::config::{NumaConfig, NumaNode, Topology};
use crate::targets::BoardSpec;

/// Nodes at most, as in QEMU.
const MAX_NODES: u32 = 128;
/// Distance of a node to itself, and of others if nothing is said (ACPI specification, "System Locality Information Table").
const LOCAL: u8 = 10;
const REMOTE: u8 = 20;
/// "Unreachable".
const UNREACHABLE: u32 = 255;

options! {
    /// `-numa node`
    struct NodeOptions {
        /// its number
        "nodeid" => nodeid: Option<u32>,
        /// its processors: a number or first-last
        "cpus" => cpus: Vec<String>,
        /// its memory
        "mem" => mem: Option<MebiSize>,
        /// the memory back end of its memory (-object memory-backend-ram)
        "memdev" => memdev: Option<String>,
    }
}

options! {
    /// `-numa dist`
    struct DistanceOptions {
        /// from this node
        "src" => src: u32,
        /// to this node
        "dst" => dst: u32,
        /// how far, 10 to 255 (255: unreachable)
        "val" => val: u32,
    }
}

options! {
    /// `-numa cpu`
    struct CpuOptions {
        /// the node
        "node-id" => node: u32,
        /// the socket whose processors belong to it
        "socket-id" => socket: Option<u32>,
        /// the core
        "core-id" => core: Option<u32>,
        /// the thread
        "thread-id" => thread: Option<u32>,
    }
}

/// One node as asked for.
struct NodeRequest {
    cpus: Vec<(u32, u32)>,
    mem: Option<u64>,
    memdev: Option<String>,
}

/// Every `-numa` read so far.
#[derive(Default)]
pub struct NumaRequest {
    nodes: BTreeMap<u32, NodeRequest>,
    distances: BTreeMap<(u32, u32), u8>,
    cpus: Vec<CpuOptions>,
}

/// `-numa`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let mut options = Options::parse(text, Some("type"))?;
    let wants_help = options.wants_help();
    let Some(kind) = options.take::<String>("type")? else {
        if wants_help {
            builder.say = Some("-numa node|dist|cpu; use -numa node,help and so on\n".into());
            return Ok(());
        }
        bail!("parameter 'type' is missing");
    };
    let help = match kind.as_str() {
        "node" => NodeOptions::help(),
        "dist" => DistanceOptions::help(),
        "cpu" => CpuOptions::help(),
        "hmat-lb" | "hmat-cache" => bail!("'{kind}' is not implemented yet"),
        _ => bail!("parameter 'type' expects 'node', 'dist' or 'cpu', not '{kind}'"),
    };
    if wants_help {
        builder.say = Some(format!("-numa {kind} parameters:\n{help}"));
        return Ok(());
    }
    match kind.as_str() {
        "node" => builder.numa.take_node(NodeOptions::from_options(options)?),
        "dist" => builder.numa.take_distance(&DistanceOptions::from_options(options)?),
        _ => builder.numa.take_cpu(CpuOptions::from_options(options)?),
    }
}

fn check_node(node: u32) -> anyhow::Result<u32> {
    if node >= MAX_NODES {
        bail!("node numbers go from 0 to {}, not {node}", MAX_NODES - 1);
    }
    Ok(node)
}

impl NumaRequest {
    fn take_node(&mut self, options: NodeOptions) -> anyhow::Result<()> {
        let id = match options.nodeid {
            Some(id) => id,
            None => (0..).find(|id| !self.nodes.contains_key(id)).unwrap_or(MAX_NODES),
        };
        check_node(id)?;
        if options.mem.is_some() && options.memdev.is_some() {
            bail!("cannot specify both mem= and memdev=");
        }
        let cpus: anyhow::Result<_> = options.cpus.iter().map(|text| parse_range(text)).collect();
        let node = NodeRequest { cpus: cpus?, mem: options.mem.map(|m| m.0), memdev: options.memdev };
        if self.nodes.insert(id, node).is_some() {
            bail!("duplicate NUMA nodeid: {id}");
        }
        Ok(())
    }

    fn take_distance(&mut self, options: &DistanceOptions) -> anyhow::Result<()> {
        let (src, dst) = (check_node(options.src)?, check_node(options.dst)?);
        let distance = u8::try_from(options.val).ok().filter(|val| *val >= LOCAL);
        let Some(distance) = distance else {
            bail!("NUMA distance ({}) is invalid: it is from {LOCAL} to {UNREACHABLE}", options.val);
        };
        if src == dst && distance != LOCAL {
            bail!("local distance of node {src} should be {LOCAL}");
        }
        self.distances.insert((src, dst), distance);
        Ok(())
    }

    fn take_cpu(&mut self, options: CpuOptions) -> anyhow::Result<()> {
        check_node(options.node)?;
        self.cpus.push(options);
        Ok(())
    }

    /// The nodes, once the rest of the machine is known; `memory` gives the size of a memory back end by its id.
    pub fn finish(
        self,
        board: &BoardSpec,
        topology: Topology,
        ram_size: u64,
        memory: &dyn Fn(&str) -> anyhow::Result<u64>,
    ) -> anyhow::Result<Option<NumaConfig>> {
        if self.nodes.is_empty() {
            if !self.distances.is_empty() || !self.cpus.is_empty() {
                bail!("no '-numa node' is there for it");
            }
            return Ok(None);
        }
        if !board.has_numa {
            bail!("NUMA is not implemented yet for machine '{}'", board.name);
        }
        let count = self.nodes.len() as u32;
        if let Some(missing) = (0..count).find(|id| !self.nodes.contains_key(id)) {
            bail!("numa: Node ID missing: {missing}");
        }
        let mut nodes = self.memory(ram_size, memory)?;
        let owners = self.owners(topology)?;
        for (cpu, node) in (0..).zip(owners) {
            if let Some(node) = nodes.get_mut(node as usize) {
                node.cpus.push(cpu);
            }
        }
        let distances = self.distance_matrix(count)?;
        Ok(Some(NumaConfig { nodes, distances }))
    }

    /// Nodes with their memory, and no processors yet. Memory that nobody speaks of is shared out evenly.
    fn memory(
        &self,
        ram_size: u64,
        memory: &dyn Fn(&str) -> anyhow::Result<u64>,
    ) -> anyhow::Result<Vec<NumaNode>> {
        let given = self.nodes.values().any(|n| n.mem.is_some() || n.memdev.is_some());
        let count = self.nodes.len() as u64;
        // Whole pages of 8 MiB for all but the last, so that boundaries are round.
        let share = (ram_size / count) & !((8 << 20) - 1);
        let mut sizes = Vec::new();
        for (index, node) in (0u64..).zip(self.nodes.values()) {
            sizes.push(match (node.mem, &node.memdev) {
                (Some(size), _) => size,
                (None, Some(id)) => memory(id)?,
                (None, None) if given => 0,
                (None, None) if index + 1 == count => ram_size - share * (count - 1),
                (None, None) => share,
            });
        }
        let total = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size));
        if total != Some(ram_size) {
            bail!(
                "total memory for NUMA nodes ({:#x}) should equal RAM size ({ram_size:#x})",
                total.unwrap_or(u64::MAX)
            );
        }
        Ok(sizes.into_iter().map(|memory| NumaNode { memory, cpus: Vec::new() }).collect())
    }

    /// The node of each processor. Without any word on processors they are shared out in order; else those that are
    /// not named belong to node 0.
    fn owners(&self, topology: Topology) -> anyhow::Result<Vec<u32>> {
        let (count, cpus) = (self.nodes.len() as u32, topology.maxcpus);
        let silent = self.cpus.is_empty() && self.nodes.values().all(|n| n.cpus.is_empty());
        if silent {
            let each = (cpus / count).max(1);
            return Ok((0..cpus).map(|cpu| (cpu / each).min(count - 1)).collect());
        }
        let mut owners: Vec<Option<u32>> = vec![None; cpus as usize];
        let mut assign = |cpu: u32, node: u32| match owners.get_mut(cpu as usize) {
            None => Err(anyhow!("CPU index ({cpu}) should be smaller than maxcpus ({cpus})")),
            Some(owner) => match owner.replace(node) {
                Some(other) if other != node => Err(anyhow!("CPU {cpu} is in nodes {other} and {node}")),
                _ => Ok(()),
            },
        };
        for (id, node) in &self.nodes {
            for (first, last) in &node.cpus {
                (*first..=*last).try_for_each(|cpu| assign(cpu, *id))?;
            }
        }
        for request in &self.cpus {
            if !self.nodes.contains_key(&request.node) {
                bail!("invalid node-id={}: no such node", request.node);
            }
            let mut any = false;
            for cpu in (0..cpus).filter(|cpu| names(request, *cpu, topology)) {
                assign(cpu, request.node)?;
                any = true;
            }
            if !any {
                bail!("-numa cpu: no such processor in the topology");
            }
        }
        Ok(owners.into_iter().map(|owner| owner.unwrap_or(0)).collect())
    }

    /// Distances row by row. A pair that is given one way holds both ways if no pair is asymmetric.
    fn distance_matrix(&self, count: u32) -> anyhow::Result<Option<Vec<u8>>> {
        if self.distances.is_empty() {
            return Ok(None);
        }
        if let Some((src, dst)) = self.distances.keys().find(|(s, d)| *s >= count || *d >= count) {
            bail!("source or destination node is missing: src={src},dst={dst}");
        }
        let get = |a, b| self.distances.get(&(a, b)).copied();
        let mut matrix = Vec::with_capacity((count * count) as usize);
        for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
            matrix.push(match (get(a, b), get(b, a)) {
                _ if a == b => LOCAL,
                (Some(there), _) => there,
                (None, Some(back)) => back,
                (None, None) if count == 1 => REMOTE,
                (None, None) => bail!("the distance between nodes {a} and {b} is missing"),
            });
        }
        Ok(Some(matrix))
    }
}

/// Whether `-numa cpu` names a processor, which are numbered thread by thread, core by core, socket by socket.
fn names(request: &CpuOptions, cpu: u32, topology: Topology) -> bool {
    let thread = cpu % topology.threads;
    let core = cpu / topology.threads % (topology.cores * topology.dies);
    let socket = cpu / topology.threads / (topology.cores * topology.dies);
    let fits = |wanted: Option<u32>, is| wanted.is_none_or(|wanted| wanted == is);
    fits(request.thread, thread) && fits(request.core, core) && fits(request.socket, socket)
}

/// `3` or `0-3`.
fn parse_range(text: &str) -> anyhow::Result<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => bail!("parameter 'cpus' expects a number or first-last, not '{text}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numa_config as config;
    use super::super::tests::numa_refusal as refusal;

    fn nodes(line: &str) -> Vec<(u64, Vec<u32>)> {
        let numa = config(line).numa.unwrap();
        numa.nodes.into_iter().map(|n| (n.memory >> 20, n.cpus)).collect()
    }

    #[test]
    fn what_is_not_said_is_shared_out() {
        assert_eq!(config("-M virt").numa, None);
        assert_eq!(
            nodes("-M virt -m 1G -smp 4 -numa node -numa node"),
            [(512, vec![0, 1]), (512, vec![2, 3])]
        );
        assert_eq!(
            nodes("-M virt -m 1G -smp 4 -numa node,mem=256M,cpus=0-2 -numa node,mem=768M,cpus=3"),
            [(256, vec![0, 1, 2]), (768, vec![3])]
        );
        assert_eq!(
            nodes(
                "-M virt -m 1G -smp 4,sockets=2 -numa node -numa node -numa cpu,node-id=1,socket-id=0 \
                 -numa cpu,node-id=0,socket-id=1"
            ),
            [(512, vec![2, 3]), (512, vec![0, 1])]
        );
    }

    #[test]
    fn memory_back_ends_give_the_size() {
        let line = "-M virt -m 1G -smp 2 -object memory-backend-ram,id=a,size=768M -object \
                    memory-backend-ram,id=b,size=256M -numa node,memdev=a -numa node,memdev=b";
        assert_eq!(nodes(line), [(768, vec![0]), (256, vec![1])]);
        assert!(refusal("-M virt -numa node,memdev=x").contains("no -object has the id 'x'"));
    }

    #[test]
    fn distances() {
        let line = "-M virt -m 1G -numa node -numa node -numa dist,src=0,dst=1,val=30";
        assert_eq!(config(line).numa.unwrap().distances, Some(vec![10, 30, 30, 10]));
        let line =
            "-M virt -m 1G -numa node -numa node -numa dist,src=0,dst=1,val=30 -numa dist,src=1,dst=0,val=40";
        assert_eq!(config(line).numa.unwrap().distances, Some(vec![10, 30, 40, 10]));
        let line = "-M virt -m 3G -numa node -numa node -numa node -numa dist,src=0,dst=1,val=30";
        assert!(refusal(line).contains("between nodes 0 and 2 is missing"));
    }

    #[test]
    fn impossible_nodes_are_refused() {
        for (line, part) in [
            ("-numa node,nodeid=200", "0 to 127"),
            ("-numa node,nodeid=1", "Node ID missing: 0"),
            ("-numa node,nodeid=0 -numa node,nodeid=0", "duplicate"),
            ("-numa node,mem=1G", "should equal RAM size"),
            ("-numa node,cpus=0-9", "smaller than maxcpus"),
            ("-smp 2 -numa node,cpus=0-1 -numa node,cpus=1", "CPU 1 is in nodes"),
            ("-numa node,cpus=3-1", "expects a number or first-last"),
            ("-numa dist,src=0,dst=1,val=20", "no '-numa node'"),
            ("-numa node -numa dist,src=0,dst=0,val=20", "local distance"),
            ("-numa node -numa dist,src=0,dst=1,val=5", "NUMA distance (5) is invalid"),
            ("-numa node -numa cpu,node-id=3", "no such node"),
            ("-numa node -numa cpu,node-id=0,socket-id=7", "no such processor"),
            ("-numa hmat-lb", "not implemented yet"),
            ("-numa nodes", "expects 'node', 'dist' or 'cpu'"),
        ] {
            let refusal = refusal(&format!("-M virt {line}"));
            assert!(refusal.contains(part), "{line}: {refusal}");
        }
    }
}
