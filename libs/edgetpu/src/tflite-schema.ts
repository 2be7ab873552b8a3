/**
 * What of the TensorFlow Lite schema (version 3c) a reader and a writer need, as data: enum names in order and, per member of
 * the options union, its fields in order. Field ids and union ids are positions, so entries may only be appended.
 */
export const tensorTypes = [
  'FLOAT32', 'FLOAT16', 'INT32', 'UINT8', 'INT64', 'STRING', 'BOOL', 'INT16', 'COMPLEX64', 'INT8', 'FLOAT64', 'COMPLEX128', 'UINT64',
  'RESOURCE', 'VARIANT', 'UINT32', 'UINT16', 'INT4',
] as const;
export type TensorType = (typeof tensorTypes)[number] | 'UNKNOWN';

/** Bytes of one element; absent where a tensor's size does not follow from its shape. */
export const elementBytes: Partial<Record<TensorType, number>> = {
  FLOAT32: 4, FLOAT16: 2, INT32: 4, UINT8: 1, INT64: 8, BOOL: 1, INT16: 2, COMPLEX64: 8, INT8: 1, FLOAT64: 8, COMPLEX128: 16, UINT64: 8,
  UINT32: 4, UINT16: 2,
};

export const activations = ['NONE', 'RELU', 'RELU_N1_TO_1', 'RELU6', 'TANH', 'SIGN_BIT'] as const;
export type Activation = (typeof activations)[number];

/** BuiltinOperator, by code. */
export const builtinOperators: readonly string[] = `ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
  EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
  LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL
  CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
  UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
  CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
  EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND
  LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
  SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE
  MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
  BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND
  HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
  RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD
  UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT`.split(/\s+/);

/** Code 127 in the old one-byte field means: look at the new field. */
export const greaterOpCodes = 127;

export type OptionKind = 'bool' | 'int' | 'uint' | 'long' | 'float' | 'padding' | 'activation' | 'type' | 'enum' | 'ints' | 'floats' | 'string';
export interface OptionField {
  name: string;
  kind: OptionKind;
  /** Schema default where it is not zero. */
  absent?: number | boolean;
}
export interface OptionLayout {
  name: string;
  fields: OptionField[];
}

const fused = 'fusedActivation:activation';
const asymmetric = 'asymmetricQuantiseInputs:bool';
/** BuiltinOptions in union order, one line each: `Name field:kind[=default] ...`. */
const layouts = `
  Conv2D padding:padding strideW:int strideH:int ${fused} dilationW:int=1 dilationH:int=1 quantisedBiasType:type
  DepthwiseConv2D padding:padding strideW:int strideH:int depthMultiplier:int ${fused} dilationW:int=1 dilationH:int=1
  ConcatEmbeddings numChannels:int columnsPerChannel:ints embeddingDimPerChannel:ints
  LshProjection type:enum
  Pool2D padding:padding strideW:int strideH:int filterWidth:int filterHeight:int ${fused}
  Svdf rank:int ${fused} ${asymmetric}
  Rnn ${fused} ${asymmetric}
  FullyConnected ${fused} weightsFormat:enum keepNumDims:bool ${asymmetric} quantisedBiasType:type
  Softmax beta:float
  Concatenation axis:int ${fused}
  Add ${fused} potScaleInt16:bool=true
  L2Norm ${fused}
  LocalResponseNormalization radius:int bias:float alpha:float beta:float
  Lstm ${fused} cellClip:float projClip:float kernelType:enum ${asymmetric}
  ResizeBilinear newHeight:int newWidth:int alignCorners:bool halfPixelCenters:bool
  Call subgraph:uint
  Reshape newShape:ints
  SkipGram ngramSize:int maxSkipSize:int includeAllNgrams:bool
  SpaceToDepth blockSize:int
  EmbeddingLookupSparse combiner:enum
  Mul ${fused}
  Pad
  Gather axis:int batchDims:int
  BatchToSpaceNd
  SpaceToBatchNd
  Transpose
  Reducer keepDims:bool
  Sub ${fused} potScaleInt16:bool=true
  Div ${fused}
  Squeeze squeezeDims:ints
  SequenceRnn timeMajor:bool ${fused} ${asymmetric}
  StridedSlice beginMask:int endMask:int ellipsisMask:int newAxisMask:int shrinkAxisMask:int offset:bool
  Exp
  TopKV2
  Split numSplits:int
  LogSoftmax
  Cast inDataType:type outDataType:type
  Dequantize
  MaximumMinimum
  ArgMax outputType:type
  Less
  Neg
  PadV2
  Greater
  GreaterEqual
  LessEqual
  Select
  Slice
  TransposeConv padding:padding strideW:int strideH:int ${fused} quantisedBiasType:type
  SparseToDense validateIndices:bool
  Tile
  ExpandDims
  Equal
  NotEqual
  Shape outType:type
  Pow
  ArgMin outputType:type
  FakeQuant min:float max:float numBits:int narrowRange:bool
  Pack valuesCount:int axis:int
  LogicalOr
  OneHot axis:int
  LogicalAnd
  LogicalNot
  Unpack num:int axis:int
  FloorDiv
  Square
  ZerosLike
  Fill
  BidirectionalSequenceLstm ${fused} cellClip:float projClip:float mergeOutputs:bool timeMajor:bool=true ${asymmetric}
  BidirectionalSequenceRnn timeMajor:bool ${fused} mergeOutputs:bool ${asymmetric}
  UnidirectionalSequenceLstm ${fused} cellClip:float projClip:float timeMajor:bool ${asymmetric} diagonalRecurrentTensors:bool
  FloorMod
  Range
  ResizeNearestNeighbor alignCorners:bool halfPixelCenters:bool
  LeakyRelu alpha:float
  SquaredDifference
  MirrorPad mode:enum
  Abs
  SplitV numSplits:int
  Unique idxOutType:type=2
  ReverseV2
  AddN
  GatherNd
  Cos
  Where
  Rank
  ReverseSequence seqDim:int batchDim:int
  MatrixDiag
  Quantize
  MatrixSetDiag
  HardSwish
  If thenSubgraph:int elseSubgraph:int
  While condSubgraph:int bodySubgraph:int
  DepthToSpace blockSize:int
  NonMaxSuppressionV4
  NonMaxSuppressionV5
  ScatterNd
  SelectV2
  Densify
  SegmentSum
  BatchMatMul adjX:bool adjY:bool ${asymmetric}
  Cumsum exclusive:bool reverse:bool
  CallOnce initSubgraph:int
  BroadcastTo
  Rfft2d
  Conv3D padding:padding strideD:int strideW:int strideH:int ${fused} dilationD:int=1 dilationW:int=1 dilationH:int=1
  Hashtable tableId:int keyType:type valueType:type
  HashtableFind
  HashtableImport
  HashtableSize
  VarHandle container:string sharedName:string
  ReadVariable
  AssignVariable
  Random seed:long seed2:long
  Bucketize boundaries:floats
  Gelu approximate:bool
  DynamicUpdateSlice
  UnsortedSegmentProd
  UnsortedSegmentMax
  UnsortedSegmentMin
  UnsortedSegmentSum
  Atan2
  Sign
  Bitcast
  BitwiseXor
  RightShift`;

/** Index = union type; 0 is "no options". */
export const optionLayouts: readonly (OptionLayout | null)[] = [null, ...layouts.trim().split('\n').map((line): OptionLayout => {
  const [name, ...fields] = line.trim().split(' ');
  return { name: name!, fields: fields.map(optionField) };
})];

function optionField(text: string): OptionField {
  const [, name, kind, absent] = /^(\w+):(\w+)(?:=(\w+))?$/.exec(text)!;
  return { name: name!, kind: kind as OptionKind, ...(absent && { absent: absent === 'true' ? true : Number(absent) }) };
}
