/** Uncompressed BMP files (8 bits with a palette, 24, 32), as microcontrollers and test sets have them; image libraries often leave them out. */
export function isBmp(bytes: Uint8Array): boolean {
  return bytes[0] === 0x42 && bytes[1] === 0x4d;
}

/**
 * Source: BITMAPFILEHEADER and BITMAPINFOHEADER of the Windows API (wingdi.h): rows are padded to 4 bytes and stored from the bottom up unless
 * the height is negative; pixels are blue, green, red.
 * @returns height x width x 3 bytes, red, green, blue, from the top
 * @throws RangeError for what is not such a file
 */
export function decodeBmp(file: Uint8Array, maxPixels = 0x3fff * 0x3fff): { width: number; height: number; pixels: Buffer } {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  if (!isBmp(bytes) || bytes.length < 54) throw new RangeError('this is not a whole BMP file');
  const [offset, headerBytes, width, signedHeight, bits, compression] = [bytes.readUInt32LE(10), bytes.readUInt32LE(14), bytes.readInt32LE(18), bytes.readInt32LE(22), bytes.readUInt16LE(28), bytes.readUInt32LE(30)];
  const height = Math.abs(signedHeight);
  // 3 (BI_BITFIELDS) only says where 32 bits hold which colour; everybody writes blue, green, red, unused.
  if (headerBytes < 40 || !(compression === 0 || (compression === 3 && bits === 32 && bytes.readUInt32LE(54) === 0xff0000)) || ![8, 24, 32].includes(bits)) throw new RangeError('BMP files are read uncompressed with 8, 24 or 32 bits a pixel');
  if (width < 1 || height < 1 || width * height > maxPixels) throw new RangeError(`a BMP of ${width} x ${height} pixels is not read`);
  const stride = Math.ceil((width * bits) / 32) * 4;
  if (offset < 14 + headerBytes || offset + stride * height > bytes.length) throw new RangeError('this BMP file ends too early');
  const palette = 14 + headerBytes;
  const pixels = Buffer.allocUnsafe(width * height * 3);
  let at = 0;
  for (let row = 0; row < height; row += 1) {
    const line = offset + stride * (signedHeight < 0 ? row : height - 1 - row);
    for (let column = 0; column < width; column += 1) {
      const from = bits === 8 ? palette + 4 * bytes[line + column]! : line + column * (bits / 8);
      if (bits === 8 && from + 3 > offset) throw new RangeError('this BMP file names a colour that it does not have');
      pixels[at] = bytes[from + 2]!;
      pixels[at + 1] = bytes[from + 1]!;
      pixels[at + 2] = bytes[from]!;
      at += 3;
    }
  }
  return { width, height, pixels };
}
