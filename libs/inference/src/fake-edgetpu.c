/* A stand-in for libedgetpu, for tests: the real one's C interface (edgetpu_c.h) and a delegate with the ABI of TFLite before 2.10, which
 * claims `edgetpu-custom-op` and does arithmetic that a test can foresee: output byte i = (sum of all input bytes + i) mod 256.
 * Device paths decide its mood: /fake/dead gives no delegate, /fake/old refuses models, /fake/lost fails at invoke, /fake/hang never returns. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tensorflow/lite/c/common.h"

enum edgetpu_device_type { EDGETPU_APEX_PCI = 0, EDGETPU_APEX_USB = 1 };
struct edgetpu_device { enum edgetpu_device_type type; const char *path; };
struct edgetpu_option { const char *name; const char *value; };

static struct edgetpu_device devices[] = {
  {EDGETPU_APEX_USB, "/fake/good"}, {EDGETPU_APEX_PCI, "/fake/dead"}, {EDGETPU_APEX_USB, "/fake/old"},
  {EDGETPU_APEX_USB, "/fake/lost"}, {EDGETPU_APEX_USB, "/fake/hang"},
};
static int open_delegates;

const char *edgetpu_version(void) { return "BuildLabel(FAKE), RuntimeVersion(14)"; }
struct edgetpu_device *edgetpu_list_devices(size_t *count) {
  *count = sizeof devices / sizeof *devices;
  struct edgetpu_device *list = malloc(sizeof devices);
  memcpy(list, devices, sizeof devices);
  return list;
}
void edgetpu_free_devices(struct edgetpu_device *list) { free(list); }
/* Not in libedgetpu: lets a test see that every delegate was given back. */
int fake_open_delegates(void) { return open_delegates; }

static const char *path_of(TfLiteNode *node) { return node->user_data; }
static void *op_init(TfLiteContext *context, const char *buffer, size_t length) {
  return ((const TfLiteDelegateParams *)buffer)->delegate->data_;
}
static TfLiteStatus op_prepare(TfLiteContext *context, TfLiteNode *node) {
  if (strcmp(path_of(node), "/fake/old") != 0) return kTfLiteOk;
  context->ReportError(context, "Package requires runtime version (%d), which is newer than this runtime version (%d).", 15, 14);
  return kTfLiteError;
}
static TfLiteStatus op_invoke(TfLiteContext *context, TfLiteNode *node) {
  if (strcmp(path_of(node), "/fake/lost") == 0) return kTfLiteError;
  while (strcmp(path_of(node), "/fake/hang") == 0) sleep(1);
  unsigned sum = 0;
  for (int i = 0; i < node->inputs->size; i++) {
    const TfLiteTensor *input = &context->tensors[node->inputs->data[i]];
    if (input->allocation_type == kTfLiteMmapRo) continue;
    for (size_t at = 0; at < input->bytes; at++) sum += input->data.uint8[at];
  }
  for (int o = 0; o < node->outputs->size; o++) {
    TfLiteTensor *output = &context->tensors[node->outputs->data[o]];
    for (size_t at = 0; at < output->bytes; at++) output->data.uint8[at] = (uint8_t)(sum + at);
  }
  return kTfLiteOk;
}

static TfLiteStatus delegate_prepare(TfLiteContext *context, TfLiteDelegate *delegate) {
  TfLiteIntArray *plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  TfLiteIntArray *mine = calloc(1, sizeof(int) * (plan->size + 1));
  for (int at = 0; at < plan->size; at++) {
    TfLiteNode *node;
    TfLiteRegistration *op;
    if (context->GetNodeAndRegistration(context, plan->data[at], &node, &op) != kTfLiteOk) return kTfLiteError;
    if (op->custom_name && strcmp(op->custom_name, "edgetpu-custom-op") == 0) mine->data[mine->size++] = plan->data[at];
  }
  TfLiteRegistration kernel = {.init = op_init, .prepare = op_prepare, .invoke = op_invoke, .custom_name = "FakeEdgeTpu", .version = 1};
  TfLiteStatus status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, mine, delegate);
  free(mine);
  return status;
}

TfLiteDelegate *edgetpu_create_delegate(enum edgetpu_device_type type, const char *name, const struct edgetpu_option *options, size_t count) {
  for (size_t at = 0; at < sizeof devices / sizeof *devices; at++) {
    if (devices[at].type != type || strcmp(devices[at].path, name) != 0 || strcmp(name, "/fake/dead") == 0) continue;
    TfLiteDelegate *delegate = calloc(1, sizeof *delegate);
    delegate->data_ = (void *)devices[at].path;
    delegate->Prepare = delegate_prepare;
    delegate->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
    open_delegates++;
    return delegate;
  }
  return NULL;
}
void edgetpu_free_delegate(TfLiteDelegate *delegate) {
  open_delegates--;
  free(delegate);
}
