import { ByteBuffer } from 'flatbuffers';

/**
 * The peer of the analyzer's reader: every field that it reads of a `.tflite`, read once with the accessors that `flatc --ts` generates for the
 * schema (npm's flatbuffers underneath). No check, no model in memory, no judgement: the least that a tool pays which uses the generated code.
 * Answers counts, so that both can be seen to have read the same.
 */
export function walk(bytes) {
  const bb = new ByteBuffer(bytes);
  const at = (table, id) => bb.__offset(table, 4 + 2 * id);
  const int = (table, id) => { const o = at(table, id); return o ? bb.readInt32(table + o) : 0; };
  const byte = (table, id) => { const o = at(table, id); return o ? bb.readInt8(table + o) : 0; };
  const string = (table, id) => { const o = at(table, id); return o ? bb.__string(table + o) : null; };
  const tables = (table, id, each) => {
    const o = at(table, id);
    const length = o ? bb.__vector_len(table + o) : 0;
    for (let index = 0; index < length; index += 1) each(bb.__indirect(bb.__vector(table + o) + index * 4));
    return length;
  };
  const list = (table, id, width, read) => {
    const o = at(table, id);
    const values = [];
    for (let index = 0, length = o ? bb.__vector_len(table + o) : 0; index < length; index += 1) values.push(read(bb.__vector(table + o) + index * width));
    return values;
  };
  const ints = (table, id) => list(table, id, 4, (place) => bb.readInt32(place));
  const found = { tensors: 0, operators: 0, scales: 0, constants: 0 };

  const root = bb.readInt32(bb.position()) + bb.position();
  const buffers = [];
  tables(root, 4, (table) => {
    const o = at(table, 0);
    buffers.push(o ? new Uint8Array(bb.bytes().buffer, bb.bytes().byteOffset + bb.__vector(table + o), bb.__vector_len(table + o)) : null);
  });
  tables(root, 1, (table) => { byte(table, 0); string(table, 1); int(table, 2); int(table, 3); });
  tables(root, 2, (graph) => {
    found.tensors += tables(graph, 0, (tensor) => {
      ints(tensor, 0); byte(tensor, 1); string(tensor, 3); byte(tensor, 5); ints(tensor, 7);
      found.constants += buffers[int(tensor, 2)]?.byteLength ?? 0;
      const o = at(tensor, 4);
      if (!o) return;
      const quantisation = bb.__indirect(tensor + o);
      found.scales += list(quantisation, 2, 4, (place) => bb.readFloat32(place)).length;
      list(quantisation, 3, 8, (place) => bb.readInt64(place));
      int(quantisation, 6);
    });
    ints(graph, 1); ints(graph, 2); string(graph, 4);
    found.operators += tables(graph, 3, (operator) => {
      int(operator, 0); ints(operator, 1); ints(operator, 2); byte(operator, 3); ints(operator, 8);
      const o = at(operator, 4);
      // The options: a handful of scalars.
      if (o) for (let id = 0; id < 6; id += 1) byte(bb.__indirect(operator + o), id);
    });
  });
  tables(root, 6, (table) => { string(table, 0); int(table, 1); });
  tables(root, 7, (signature) => {
    string(signature, 2); int(signature, 4);
    for (const side of [0, 1]) tables(signature, side, (entry) => { string(entry, 0); int(entry, 1); });
  });
  return found;
}
