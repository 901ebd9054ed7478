#include "cli/bench_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "cli/output.h"

namespace marlin::cli {
namespace {

using Cells = std::vector<std::string>;

Json number_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

/// What all rows have in common.
Json model_json(const BenchReport& report) {
  const ModelInfo& info = report.info;
  return {{"name", info.name},
          {"architecture", info.architecture},
          {"file_bytes", report.file_bytes},
          {"weight_bytes", info.weight_bytes},
          {"synthetic", info.synthetic}};
}

Json settings_json(const BenchReport& report) {
  const ModelInfo& info = report.info;
  const auto& bandwidth = report.bandwidth;
  return {{"bandwidth_gbps", bandwidth ? Json(bandwidth->median) : Json(nullptr)},
          {"bandwidth_gbps_min", bandwidth ? Json(bandwidth->min) : Json(nullptr)},
          {"bandwidth_gbps_max", bandwidth ? Json(bandwidth->max) : Json(nullptr)},
          {"load_s", info.load_seconds},
          {"first_prefill_s", report.first_token_s},
          {"peak_rss_bytes", report.peak_rss_bytes ? Json(*report.peak_rss_bytes) : Json(nullptr)},
          {"weight_bytes_per_token", info.weight_bytes_per_token},
          {"threads", info.threads},
          {"kv", info.kv_type},
          {"kv_memory_bytes", info.kv_memory},
          {"device", info.device},
          {"deterministic", report.options.deterministic},
          {"repetitions", report.repetitions}};
}

Json row_json(const BenchRow& row) {
  return {{"name", row.test.kind()},          {"depth", row.test.depth},
          {"batch", row.test.batch},          {"tps_median", row.tps.median},
          {"tps_min", row.tps.min},           {"tps_max", row.tps.max},
          {"ttft_ms_median", row.ttft_ms},    {"step_bytes", row.test.prompt ? Json(nullptr) : Json(row.step_bytes)},
          {"gbps", number_or_null(row.gbps)}, {"percent_of_bandwidth", number_or_null(row.percent)}};
}

std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string as_json(const BenchReport& report) {
  Json json = {{"model", model_json(report)}};
  json.update(settings_json(report));
  json["notes"] = report.notes;
  json["tests"] = Json::array();
  for (const BenchRow& row : report.rows) json["tests"].push_back(row_json(row));
  return dump(json, 2);
}

/// One object a row: the model's and the run's fields, flat, then the row's.
std::vector<Json> flat_rows(const BenchReport& report) {
  Json common = Json::object();
  const Json model = model_json(report);
  for (const auto& [key, value] : model.items()) common[key == "name" ? "model" : key] = value;
  common.update(settings_json(report));
  std::vector<Json> rows;
  for (const BenchRow& row : report.rows) {
    Json json = common;
    json.update(row_json(row));
    rows.push_back(std::move(json));
  }
  return rows;
}

std::string as_jsonl(const BenchReport& report) {
  std::string out;
  for (const Json& row : flat_rows(report)) out += dump(row);
  return out;
}

/// RFC 4180; an unknown value is an empty field.
std::string csv_field(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string text = value.get<std::string>();
  if (text.find_first_of("\",\r\n") == std::string::npos) return text;
  for (size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, 1, '"');
  return "\"" + text + "\"";
}

std::string as_csv(const BenchReport& report) {
  std::string out;
  for (const Json& row : flat_rows(report)) {
    Cells names, fields;
    for (const auto& [key, value] : row.items()) {
      names.push_back(key);
      fields.push_back(csv_field(value));
    }
    if (out.empty()) out = fmt::format("{}\n", fmt::join(names, ","));
    out += fmt::format("{}\n", fmt::join(fields, ","));
  }
  return out;
}

/// A Markdown table that reads well as text too; the first `left` columns stand left.
std::string markdown_table(const std::vector<Cells>& rows, size_t left) {
  std::vector<size_t> widths(rows.front().size(), 3);
  for (const Cells& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t i = 0; i < widths.size(); ++i) {
      out +=
          i < left ? fmt::format("| {:<{}} ", rows[r][i], widths[i]) : fmt::format("| {:>{}} ", rows[r][i], widths[i]);
    }
    out += "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < widths.size(); ++i)
      out += fmt::format("| {:-<{}}{} ", "", widths[i] - 1, i < left ? '-' : ':');
    out += "|\n";
  }
  return out;
}

Cells markdown_row(const BenchReport& report, const BenchRow& row) {
  const ModelInfo& info = report.info;
  const std::string about = row.test.batch > 1 ? "~" : "";
  return {info.name + (info.synthetic ? " (synthetic)" : ""),
          human_bytes(report.file_bytes),
          info.device,
          std::to_string(info.threads),
          info.kv_type,
          std::to_string(row.test.batch),
          row.test.label(),
          fmt::format("{:.2f}", row.tps.median),
          fmt::format("{:.2f}", row.tps.min),
          fmt::format("{:.2f}", row.tps.max),
          fmt::format("{:.1f}", row.ttft_ms),
          row.gbps ? fmt::format("{}{:.2f}", about, *row.gbps) : "",
          row.percent ? fmt::format("{}{:.1f}", about, *row.percent) : ""};
}

std::string as_markdown(const BenchReport& report) {
  const ModelInfo& info = report.info;
  std::vector<Cells> rows = {{"model", "size", "device", "threads", "kv", "batch", "test", "t/s", "min", "max",
                              "ttft ms", "GB/s", "% of bandwidth"}};
  for (const BenchRow& row : report.rows) rows.push_back(markdown_row(report, row));
  std::string out = markdown_table(rows, 3);
  out += fmt::format(
      "\nt/s: median of {} | loaded in {:.2f} s, first prefill after {:.2f} s | peak memory {} | {:.3f} MB of "
      "weights a token\n",
      report.repetitions, info.load_seconds, report.first_token_s,
      report.peak_rss_bytes ? human_bytes(*report.peak_rss_bytes) : "unknown with --roofline",
      static_cast<double>(info.weight_bytes_per_token) / 1e6);
  if (report.bandwidth) {
    out += fmt::format("memory bandwidth {:.2f} GB/s ({:.2f} to {:.2f} in {} passes, {} threads)\n",
                       report.bandwidth->median, report.bandwidth->min, report.bandwidth->max, report.bandwidth_passes,
                       info.threads);
  }
  for (const std::string& note : report.notes) out += fmt::format("note: {}\n", note);
  return out;
}

}  // namespace

std::string format_report(const BenchReport& report, const std::string& format) {
  if (format == "json") return as_json(report);
  if (format == "jsonl") return as_jsonl(report);
  if (format == "csv") return as_csv(report);
  return as_markdown(report);
}

}  // namespace marlin::cli
