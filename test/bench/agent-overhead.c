/* The floor that the agent's inference is measured against: the same library, model, XNNPACK switch and loop (copy in, invoke, copy out), in C.
 * usage: agent-overhead MODEL INPUT; then a number of runs per line on stdin; answers each with one line: a checksum of the first output, the
 * processor time of all runs and the time of every run, in microseconds. A model that XNNPACK refuses runs on the plain kernels, as in libs/inference/src/interpreter.ts. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "tensorflow/lite/c/c_api.h"

/* xnnpack_delegate.h is not among the headers that npm ships. */
typedef struct { int32_t num_threads; uint32_t flags; void *later[6]; } XnnpackOptions;
TfLiteDelegate *TfLiteXNNPackDelegateCreate(const XnnpackOptions *);

static double now_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static void fail(const char *why) {
  fprintf(stderr, "agent-overhead: %s\n", why);
  exit(1);
}
static TfLiteInterpreter *prepare(TfLiteModel *model, int xnnpack) {
  TfLiteInterpreterOptions *options = TfLiteInterpreterOptionsCreate();
  TfLiteInterpreterOptionsSetNumThreads(options, 1);
  XnnpackOptions qs8 = {1, 1};
  if (xnnpack) TfLiteInterpreterOptionsAddDelegate(options, TfLiteXNNPackDelegateCreate(&qs8));
  TfLiteInterpreter *interpreter = TfLiteInterpreterCreate(model, options);
  TfLiteInterpreterOptionsDelete(options);
  return interpreter && TfLiteInterpreterAllocateTensors(interpreter) == kTfLiteOk ? interpreter : NULL;
}

int main(int argc, char **argv) {
  if (argc != 3) fail("usage: agent-overhead MODEL INPUT");
  TfLiteModel *model = TfLiteModelCreateFromFile(argv[1]);
  if (!model) fail("not a model");
  TfLiteInterpreter *interpreter = prepare(model, 1);
  if (!interpreter) interpreter = prepare(model, 0);
  if (!interpreter) fail("the model cannot be prepared");
  TfLiteTensor *input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  size_t input_bytes = TfLiteTensorByteSize(input);
  int outputs = TfLiteInterpreterGetOutputTensorCount(interpreter);
  unsigned char *in = malloc(input_bytes), **out = malloc(outputs * sizeof *out);
  for (int o = 0; o < outputs; o++) out[o] = malloc(TfLiteTensorByteSize(TfLiteInterpreterGetOutputTensor(interpreter, o)));
  FILE *file = fopen(argv[2], "rb");
  if (!file || fread(in, 1, input_bytes, file) != input_bytes) fail("the input file is too short");

  int runs;
  while (scanf("%d", &runs) == 1) {
    double *took = malloc(runs * sizeof *took);
    double cpu = now_us(CLOCK_PROCESS_CPUTIME_ID);
    for (int run = 0; run < runs; run++) {
      double begin = now_us(CLOCK_MONOTONIC);
      if (TfLiteTensorCopyFromBuffer(input, in, input_bytes) != kTfLiteOk || TfLiteInterpreterInvoke(interpreter) != kTfLiteOk) fail("the model did not run");
      for (int o = 0; o < outputs; o++) {
        const TfLiteTensor *output = TfLiteInterpreterGetOutputTensor(interpreter, o);
        if (TfLiteTensorCopyToBuffer(output, out[o], TfLiteTensorByteSize(output)) != kTfLiteOk) fail("an output was not given");
      }
      took[run] = now_us(CLOCK_MONOTONIC) - begin;
    }
    cpu = now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    unsigned sum = 0;
    size_t bytes = TfLiteTensorByteSize(TfLiteInterpreterGetOutputTensor(interpreter, 0));
    for (size_t at = 0; at < bytes; at++) sum = sum * 31 + out[0][at];
    printf("%u %.3f", sum, cpu);
    for (int run = 0; run < runs; run++) printf(" %.3f", took[run]);
    printf("\n");
    fflush(stdout);
    free(took);
  }
  return 0;
}
