// The command line: finds the command, runs it, and turns what goes wrong into one line and an exit code.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/output.h"
#include "marlin/error.h"

namespace marlin::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  metal-marlin mmfp4 generate -m GLM-4.7-Flash-Demo-MMFP4 -p "Hello"
  metal-marlin mmfp4 chat -m GLM-4.7-Flash-Demo-MMFP4
  metal-marlin doctor

Exit codes: 0 done, 1 something failed, 2 usage error, 130 interrupted.)";

constexpr const char* kMmfp4Examples = R"(Examples:
  metal-marlin mmfp4 generate -m GLM-4.7-Flash-Demo-MMFP4 -p "Hello"
  metal-marlin mmfp4 quantize GLM-4.7-Flash GLM-4.7-Flash-MMFP4
  metal-marlin mmfp4 generate --help)";

int fail(std::string message, int exit_code) {
  std::ranges::replace(message, '\n', ' ');
  write_stderr("metal-marlin: " + message + "\n");
  return exit_code;
}

/// The last command that was understood.
const CLI::App& last_command(const CLI::App& app) {
  return app.get_subcommands().empty() ? app : last_command(*app.get_subcommands().front());
}

/// "metal-marlin mmfp4 generate"
std::string full_name(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name() : full_name(*app.get_parent()) + " " + app.get_name();
}

/// What is wrong, where CLI11's own words do not help: a command is missing or unknown.
std::string describe(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = last_command(app);
  if (command.get_require_subcommand_min() == 0) return error.what();
  const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
  if (rest.empty()) return "give a command";
  if (&command == &app) {
    const auto is_meant = [&](const CLI::App* sub) { return sub->get_name() == rest.front(); };
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
      if (!sub->get_subcommands(is_meant).empty()) {
        return "'" + rest.front() + "' stands alone; expected " + full_name(*sub) + " " + rest.front();
      }
    }
  }
  return "no command or option '" + rest.front() + "'";
}

int report_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    std::ostringstream text;  // help and version, through the writer that knows about broken pipes
    app.exit(error, text, text);
    write_stdout(text.str());
    return kOk;
  }
  return fail(describe(app, error) + "; see " + full_name(last_command(app)) + " --help", kUsage);
}

int run(int argc, char** argv) {
  CLI::App app("Metal Marlin runs MMFP4 checkpoints of GLM-4.7-Flash.", "metal-marlin");
  app.set_version_flag("--version", "metal-marlin " MARLIN_VERSION, "Print the version");
  app.footer(kExamples);
  app.require_subcommand(1);
  app.get_formatter()->column_width(32);
  Action action;
  CLI::App* mmfp4 = app.add_subcommand("mmfp4", "Commands for MMFP4 checkpoints");
  mmfp4->require_subcommand(1);
  mmfp4->footer(kMmfp4Examples);
  add_generate(*mmfp4, action);
  add_chat(*mmfp4, action);
  add_quantize(*mmfp4, action);
  add_repair(*mmfp4, action);
  add_synth(*mmfp4, action);
  add_inspect(*mmfp4, action);
  add_eval(*mmfp4, action);
  add_bench(*mmfp4, action);
  add_doctor(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error);
  }
  return action();
}

int guarded_run(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const BrokenPipe&) {
    return kOk;
  } catch (const Error& error) {
    return fail(error.what(), error.code() == ErrorCode::kUsage ? kUsage : kFailed);
  } catch (const std::bad_alloc&) {
    return fail("out of memory; close other programs, or try a smaller --ctx", kFailed);
  } catch (const std::exception& error) {
    return fail(error.what(), kFailed);
  }
}

/// A file opened later must not become standard input or output. What stands in for them fails when it is used: one
/// cannot read a write-only file.
void occupy_standard_streams() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) == fd) continue;
    write_stderr("metal-marlin: a standard stream is closed and /dev/null cannot stand in for it; open it\n");
    std::_Exit(kFailed);
  }
}

}  // namespace
}  // namespace marlin::cli

int main(int argc, char** argv) {
  marlin::cli::occupy_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a closed standard output is an error of write() then
  return marlin::cli::guarded_run(argc, argv);
}
