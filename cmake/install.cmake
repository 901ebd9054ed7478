# `make install`: the program, and the licences of it and of the demo model.
include(GNUInstallDirs)
if(TARGET metal-marlin)
  install(TARGETS metal-marlin RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
