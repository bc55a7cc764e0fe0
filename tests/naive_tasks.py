"""The expansion of a schedule as a networkx graph of named nodes, played as longest paths."""

from __future__ import annotations

import networkx as nx

FORWARD, BACKWARD, WEIGHT = range(3)
PAIRED = 4
COMPUTE, TRANSFER = 0, 3


def ends(schedule, templates, transfer_seconds, blocking):
    """Return the end of every task by name; all streams keep their order.

    Names: ("pass", kind, vstage, micro-batch, op), ("send", kind, vstage, micro-batch),
    ("head", device, op), ("tail", device, op).
    """
    s, t = schedule, templates
    dag = nx.DiGraph()
    seconds = {}
    barriers = {}

    def ops_of(template):
        return range(t.op_ptr[template], t.op_ptr[template + 1])

    def inner(template, op, name):
        low = t.op_ptr[template]
        return [(*name, d) for d in (t.op_dep_a[low + op], t.op_dep_b[low + op]) if d >= 0]

    def add(name, cost, waits):
        dag.add_node(name)
        seconds[name] = cost
        for before in waits:
            dag.add_edge(before, name)

    def template_of(kind, v, variant):
        return int(t.block_of[kind, v, variant])

    variant_of = {
        (int(k), int(v), int(m)): int(x)
        for k, v, m, x in zip(s.pass_kind, s.vstage, s.micro_batch, s.variant, strict=True)
    }

    def target(kind, v):
        return int((s.vstage_next if kind == FORWARD else s.vstage_prev)[v])

    def sends(kind, v):
        if kind == WEIGHT or target(kind, v) < 0:
            return False
        return s.vstage_device[target(kind, v)] != s.vstage_device[v]

    def exit_of(kind, v, m):
        template = template_of(kind, v, variant_of[kind, v, m])
        return ("pass", kind, v, m, int(t.exit_op[template]))

    def output(kind, v, m):
        return ("send", kind, v, m) if sends(kind, v) else exit_of(kind, v, m)

    def inputs(kind, v, m):
        if kind == WEIGHT:
            return [exit_of(BACKWARD, v, m)]
        giver = int((s.vstage_prev if kind == FORWARD else s.vstage_next)[v])
        if len(s.path_prev):
            giver = int((s.path_prev if kind == FORWARD else s.path_next)[v, m])
        if giver >= 0:
            return [output(kind, giver, m)]
        return [exit_of(FORWARD, v, m)] if kind == BACKWARD else []

    lines = []
    for device in range(s.devices):
        line = {stream: [] for stream in range(5)}
        lines.append(line)
        gate = []
        head, tail = int(t.head[device]), int(t.tail[device])
        if head >= 0:
            for k, op in enumerate(ops_of(head)):
                add(("head", device, k), t.op_seconds[op], inner(head, k, ("head", device)))
                line[t.op_stream[op]].append(("head", device, k))
            gate = [("head", device, int(t.exit_op[head]))]

        at, stop = int(s.device_ptr[device]), int(s.device_ptr[device + 1])
        while at < stop:
            group = [at]
            if s.variant[at] & PAIRED:
                group.append(at + 1)
            at += len(group)
            passes = [(int(s.pass_kind[i]), int(s.vstage[i]), int(s.micro_batch[i])) for i in group]
            group_inputs = [w for p in passes for w in inputs(*p)]
            # issue order: the pass whose smaller share of compute is issued goes next
            queues = []
            for p in passes:
                template = template_of(p[0], p[1], variant_of[p])
                rows = [(k, op) for k, op in enumerate(ops_of(template))]
                queues.append(rows)
            totals = [
                sum(t.op_seconds[op] for _, op in rows if t.op_stream[op] == COMPUTE)
                for rows in queues
            ]
            issued, done = [0] * len(passes), [0.0] * len(passes)
            while any(n < len(rows) for n, rows in zip(issued, queues, strict=True)):
                side = 0
                if issued[0] == len(queues[0]):
                    side = 1
                elif len(passes) == 2 and issued[1] < len(queues[1]):
                    side = int(done[0] * totals[1] > done[1] * totals[0])
                kind, v, m = passes[side]
                k, op = queues[side][issued[side]]
                template = template_of(kind, v, variant_of[passes[side]])
                waits = inner(template, k, ("pass", kind, v, m))
                if t.op_stream[op] == COMPUTE:
                    if not waits:
                        waits = waits + group_inputs
                    # in a pair the gate stands before the first forward operator
                    if side == 0 or len(passes) == 1:
                        waits = waits + gate
                        gate = []
                    done[side] += t.op_seconds[op]
                add(("pass", kind, v, m, k), t.op_seconds[op], waits)
                line[t.op_stream[op]].append(("pass", kind, v, m, k))
                issued[side] += 1
            for kind, v, m in passes:
                if sends(kind, v):
                    name = ("send", kind, v, m)
                    add(name, transfer_seconds[v, kind], [exit_of(*p) for p in passes])
                    line[TRANSFER].append(name)
                    if blocking:
                        gate = [name]

        earlier = [line[stream][-1] for stream in range(5) if line[stream]]
        if tail >= 0:
            count = 0
            for k, op in enumerate(ops_of(tail)):
                waits = inner(tail, k, ("tail", device)) or earlier
                if t.op_barrier[op]:
                    barriers.setdefault(count, []).append((("tail", device, k), waits))
                    count += 1
                add(("tail", device, k), t.op_seconds[op], waits)
                line[t.op_stream[op]].append(("tail", device, k))
    for members in barriers.values():
        for name, _ in members:
            for _, waits in members:
                dag.add_edges_from((w, name) for w in waits)
    for line in lines:
        for names in line.values():
            nx.add_path(dag, names)
    end = {}
    for name in nx.topological_sort(dag):
        end[name] = max((end[p] for p in dag.predecessors(name)), default=0.0) + seconds[name]
    return end
