/* A stand-in for libedgetpu, for tests: the real one's C interface (edgetpu_c.h) and a delegate with the ABI of TFLite before 2.10, which
 * claims `edgetpu-custom-op` and does arithmetic that a test can foresee: output byte i = (sum of all input bytes + i) mod 256.
 * Moods: dead gives no delegate, old refuses models, lost fails at invoke, hang never returns, slow takes 50 ms, crash dies, wrong answers one too many.
 * A file `devices` beside the library, lines of `usb|pci PATH MOOD`, says what is plugged in; it is read at every call, so a test can pull
 * devices out and change their moods while they run. Without the file there is one device of each of the first moods, /fake/MOOD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tensorflow/lite/c/common.h"

enum edgetpu_device_type { EDGETPU_APEX_PCI = 0, EDGETPU_APEX_USB = 1 };
struct edgetpu_device { enum edgetpu_device_type type; const char *path; };
struct edgetpu_option { const char *name; const char *value; };

struct entry { enum edgetpu_device_type type; char path[256]; char mood[16]; };
static int open_delegates;

static size_t read_devices(struct entry *entries, size_t most) {
  static const struct entry defaults[] = {
    {EDGETPU_APEX_USB, "/fake/good", "good"}, {EDGETPU_APEX_PCI, "/fake/dead", "dead"}, {EDGETPU_APEX_USB, "/fake/old", "old"},
    {EDGETPU_APEX_USB, "/fake/lost", "lost"}, {EDGETPU_APEX_USB, "/fake/hang", "hang"},
  };
  Dl_info self;
  char file[4096];
  if (!dladdr((void *)read_devices, &self)) abort();
  snprintf(file, sizeof file, "%.*s/devices", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
  FILE *list = fopen(file, "r");
  if (!list) {
    memcpy(entries, defaults, sizeof defaults);
    return sizeof defaults / sizeof *defaults;
  }
  size_t count = 0;
  char type[8];
  while (count < most && fscanf(list, "%7s %255s %15s", type, entries[count].path, entries[count].mood) == 3) {
    entries[count++].type = strcmp(type, "pci") == 0 ? EDGETPU_APEX_PCI : EDGETPU_APEX_USB;
  }
  fclose(list);
  return count;
}

/* "lost" for what is not plugged in. */
static int is(const char *path, const char *mood) {
  struct entry entries[16];
  size_t count = read_devices(entries, 16);
  for (size_t at = 0; at < count; at++) if (strcmp(entries[at].path, path) == 0) return strcmp(entries[at].mood, mood) == 0;
  return strcmp(mood, "lost") == 0;
}

const char *edgetpu_version(void) { return "BuildLabel(FAKE), RuntimeVersion(14)"; }
struct edgetpu_device *edgetpu_list_devices(size_t *count) {
  struct entry entries[16];
  *count = read_devices(entries, 16);
  struct edgetpu_device *list = calloc(*count + 1, sizeof *list);
  for (size_t at = 0; at < *count; at++) {
    list[at].type = entries[at].type;
    list[at].path = strdup(entries[at].path);
  }
  return list;
}
void edgetpu_free_devices(struct edgetpu_device *list) {
  for (struct edgetpu_device *one = list; one->path; one++) free((void *)one->path);
  free(list);
}
/* Not in libedgetpu: lets a test see that every delegate was given back. */
int fake_open_delegates(void) { return open_delegates; }

static const char *path_of(TfLiteNode *node) { return node->user_data; }
static void *op_init(TfLiteContext *context, const char *buffer, size_t length) {
  return ((const TfLiteDelegateParams *)buffer)->delegate->data_;
}
static TfLiteStatus op_prepare(TfLiteContext *context, TfLiteNode *node) {
  if (!is(path_of(node), "old")) return kTfLiteOk;
  context->ReportError(context, "Package requires runtime version (%d), which is newer than this runtime version (%d).", 15, 14);
  return kTfLiteError;
}
static TfLiteStatus op_invoke(TfLiteContext *context, TfLiteNode *node) {
  const char *path = path_of(node);
  if (is(path, "lost")) return kTfLiteError;
  if (is(path, "crash")) abort();
  while (is(path, "hang")) sleep(1);
  if (is(path, "slow")) usleep(50000);
  unsigned sum = is(path, "wrong");
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
  struct entry entries[16];
  size_t listed = read_devices(entries, 16);
  for (size_t at = 0; at < listed; at++) {
    if (entries[at].type != type || strcmp(entries[at].path, name) != 0 || strcmp(entries[at].mood, "dead") == 0) continue;
    TfLiteDelegate *delegate = calloc(1, sizeof *delegate);
    delegate->data_ = strdup(name);
    delegate->Prepare = delegate_prepare;
    delegate->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
    open_delegates++;
    return delegate;
  }
  return NULL;
}
void edgetpu_free_delegate(TfLiteDelegate *delegate) {
  open_delegates--;
  free(delegate->data_);
  free(delegate);
}
