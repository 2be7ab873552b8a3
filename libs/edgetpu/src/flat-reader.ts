/** Thrown by the reader for bytes that cannot be what they claim; `readModel` and `inspectCompiled` turn it into a ReefError. */
export class DamagedBytes extends Error {}

/**
 * How much a reader may still read. Offsets in a FlatBuffer may point anywhere, so a small hostile file can name the same large
 * vector a million times; an honest file never yields more than about its own size.
 */
export class Budget {
  #bytes: number;
  #tables = 0;

  constructor(fileBytes: number) {
    this.#bytes = fileBytes + (1 << 20);
  }

  spend(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#bytes < 0) throw new DamagedBytes('its parts add up to more than the whole file');
  }

  table(): void {
    if (++this.#tables > 500_000) throw new DamagedBytes('it holds more than 500,000 tables');
  }
}

const text = new TextDecoder();

/**
 * One table of a FlatBuffer, fields read by id. npm's ByteBuffer answers reads past the end with 0; this one refuses, because
 * these bytes come from users. Absent fields answer the schema's default.
 */
export class FlatTable {
  readonly #view: DataView;
  readonly #budget: Budget;
  readonly #at: number;
  readonly #vtable: number;
  readonly #vtableBytes: number;

  private constructor(view: DataView, at: number, budget: Budget) {
    budget.table();
    this.#view = view;
    this.#budget = budget;
    this.#at = at;
    check(at >= 0 && at + 4 <= view.byteLength, 'a table lies outside the file');
    this.#vtable = at - view.getInt32(at, true);
    check(this.#vtable >= 0 && this.#vtable + 4 <= view.byteLength, 'a table description lies outside the file');
    this.#vtableBytes = view.getUint16(this.#vtable, true);
    check(this.#vtableBytes >= 4 && this.#vtable + this.#vtableBytes <= view.byteLength, 'a table description is cut off');
  }

  /** What lies inside another file shares that file's budget. */
  static root(bytes: Uint8Array, budget = new Budget(bytes.byteLength)): FlatTable {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    check(view.byteLength >= 8, 'it is shorter than a header');
    return new FlatTable(view, view.getUint32(0, true), budget);
  }

  /** The four characters after the root offset, `TFL3` or `DWN1`. */
  static identifier(bytes: Uint8Array): string {
    return bytes.byteLength < 8 ? '' : String.fromCharCode(...bytes.subarray(4, 8));
  }

  has(id: number): boolean {
    return this.#field(id, 1) !== 0;
  }

  bool(id: number, absent = false): boolean {
    const at = this.#field(id, 1);
    return at === 0 ? absent : this.#view.getUint8(at) !== 0;
  }

  byte(id: number, absent = 0): number {
    const at = this.#field(id, 1);
    return at === 0 ? absent : this.#view.getInt8(at);
  }

  ubyte(id: number, absent = 0): number {
    const at = this.#field(id, 1);
    return at === 0 ? absent : this.#view.getUint8(at);
  }

  ushort(id: number, absent = 0): number {
    const at = this.#field(id, 2);
    return at === 0 ? absent : this.#view.getUint16(at, true);
  }

  int(id: number, absent = 0): number {
    const at = this.#field(id, 4);
    return at === 0 ? absent : this.#view.getInt32(at, true);
  }

  uint(id: number, absent = 0): number {
    const at = this.#field(id, 4);
    return at === 0 ? absent : this.#view.getUint32(at, true);
  }

  float(id: number, absent = 0): number {
    const at = this.#field(id, 4);
    return at === 0 ? absent : this.#view.getFloat32(at, true);
  }

  ulong(id: number, absent = 0n): bigint {
    const at = this.#field(id, 8);
    return at === 0 ? absent : this.#view.getBigUint64(at, true);
  }

  long(id: number, absent = 0): number {
    const at = this.#field(id, 8);
    return at === 0 ? absent : Number(this.#view.getBigInt64(at, true));
  }

  string(id: number): string | null {
    const bytes = this.bytes(id);
    if (bytes === null) return null;
    this.#budget.spend(bytes.byteLength);
    return text.decode(bytes);
  }

  /** A view into the file, not a copy. */
  bytes(id: number): Uint8Array | null {
    const vector = this.#vector(id, 1);
    return vector === null ? null : new Uint8Array(this.#view.buffer, this.#view.byteOffset + vector.start, vector.length);
  }

  /** Part of the whole file: buffers of models above 2 GB lie outside the FlatBuffer proper. */
  fileBytes(offset: number, length: number): Uint8Array {
    check(Number.isSafeInteger(offset + length) && offset + length <= this.#view.byteLength, 'a buffer lies outside the file');
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset + offset, length);
  }

  ints(id: number): number[] | null {
    return this.#list(id, 4, (at) => this.#view.getInt32(at, true));
  }

  floats(id: number): number[] | null {
    return this.#list(id, 4, (at) => this.#view.getFloat32(at, true));
  }

  longs(id: number): number[] | null {
    return this.#list(id, 8, (at) => {
      const low = this.#view.getInt32(at, true);
      return this.#view.getInt32(at + 4, true) === low >> 31 ? low : Number(this.#view.getBigInt64(at, true));
    });
  }

  bools(id: number): boolean[] | null {
    return this.#list(id, 1, (at) => this.#view.getUint8(at) !== 0);
  }

  table(id: number): FlatTable | null {
    const at = this.#field(id, 4);
    return at === 0 ? null : new FlatTable(this.#view, at + this.#view.getUint32(at, true), this.#budget);
  }

  tables(id: number): FlatTable[] {
    return this.#list(id, 4, (at) => new FlatTable(this.#view, at + this.#view.getUint32(at, true), this.#budget)) ?? [];
  }

  /** A vector of byte strings, each a view into the file. */
  byteStrings(id: number): Uint8Array[] {
    return this.#list(id, 4, (at) => {
      const start = at + this.#view.getUint32(at, true);
      check(start + 4 <= this.#view.byteLength, 'a string lies outside the file');
      const length = this.#view.getUint32(start, true);
      check(start + 4 + length <= this.#view.byteLength, 'a string is cut off');
      return new Uint8Array(this.#view.buffer, this.#view.byteOffset + start + 4, length);
    }) ?? [];
  }

  #field(id: number, width: number): number {
    const slot = 4 + 2 * id;
    if (slot + 2 > this.#vtableBytes) return 0;
    const offset = this.#view.getUint16(this.#vtable + slot, true);
    if (offset === 0) return 0;
    check(this.#at + offset + width <= this.#view.byteLength, 'a field lies outside the file');
    return this.#at + offset;
  }

  #vector(id: number, elementBytes: number): { start: number; length: number } | null {
    const at = this.#field(id, 4);
    if (at === 0) return null;
    const start = at + this.#view.getUint32(at, true);
    check(start + 4 <= this.#view.byteLength, 'a list lies outside the file');
    const length = this.#view.getUint32(start, true);
    check(start + 4 + length * elementBytes <= this.#view.byteLength, 'a list is cut off');
    return { start: start + 4, length };
  }

  #list<T>(id: number, elementBytes: number, read: (at: number) => T): T[] | null {
    const vector = this.#vector(id, elementBytes);
    if (vector === null) return null;
    this.#budget.spend(vector.length * elementBytes);
    // A loop: half of the reader's time is spent here, and Array.from takes three times as long.
    const list: T[] = [];
    for (let at = vector.start, end = vector.start + vector.length * elementBytes; at < end; at += elementBytes) list.push(read(at));
    return list;
  }
}

function check(holds: boolean, fault: string): void {
  if (!holds) throw new DamagedBytes(fault);
}
